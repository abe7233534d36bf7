//! Mutual TLS 1.3. Whoever proves to have the key of a listed certificate is in, and no authority, name or date is asked;
//! and so is, if there is an authority, who has a certificate of it for a listed name. A peer that is not trusted any
//! more is taken off the list.

use crate::authority::{Authority, named};
use crate::identity::{Fingerprint, Identity, PeerId, SERVER_NAME};
use blockyard_block::{Error, ErrorKind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};
use std::fmt;
use std::sync::Arc;

/// HTTP/2, by its name in TLS.
const ALPN: &[u8] = b"h2";

/// Who the peers are, now.
pub(crate) trait Listed: Send + Sync {
    fn is_listed(&self, peer: &PeerId) -> bool;
    /// The DNS names of those that are known by one.
    fn names(&self) -> Vec<String>;
}

/// Tells who shows a certificate: a listed one is known by itself, others by what the authority says, if there is one.
pub(crate) struct Judge {
    listed: Arc<dyn Listed>,
    authority: Option<Arc<dyn ClientCertVerifier>>,
}

impl Judge {
    pub(crate) fn new(listed: Arc<dyn Listed>, authority: Option<&Authority>) -> Result<Judge> {
        let provider = Arc::new(ring::default_provider());
        let authority = authority.map(|authority| authority.of_clients(&provider)).transpose()?;
        Ok(Judge { listed, authority })
    }

    /// `certificates` as they were shown: that of the peer first.
    pub(crate) fn who(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerId, rustls::Error> {
        let itself = PeerId::Certificate(Fingerprint::of(certificate));
        match &self.authority {
            _ if self.listed.is_listed(&itself) => Ok(itself),
            Some(authority) => {
                named(&**authority, certificate, intermediates, now, self.listed.names())
            }
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }
}

/// For both directions: `accepts` decides, the signature proves the key.
struct Deciding<A> {
    accepts: A,
    provider: Arc<CryptoProvider>,
}

impl<A> fmt::Debug for Deciding<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deciding")
    }
}

impl<A> Deciding<A> {
    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS 1.2 is not offered, so nobody can sign for it.
fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken".to_owned())
}

impl ServerCertVerifier for Deciding<Fingerprint> {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match Fingerprint::of(certificate) == self.accepts {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Deciding<Arc<Judge>> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let who = self.accepts.who(certificate, intermediates, now);
        who.map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

fn unusable(error: rustls::Error) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the daemon's identity cannot be used: {error}"))
}

/// 32 bytes that nobody can guess but a fuzzer.
pub(crate) fn random_key() -> Result<[u8; 32]> {
    if cfg!(feature = "fuzzing") {
        return Ok([1; 32]);
    }
    let mut key = [0; 32];
    let filled = ring::default_provider().secure_random.fill(&mut key);
    filled.map_err(|_| Error::new(ErrorKind::Io, "the system gives no random bytes"))?;
    Ok(key)
}

/// Whether key and certificate belong together.
pub(crate) fn check_pair(identity: &Identity) -> Result<()> {
    let provider = ring::default_provider();
    CertifiedKey::from_der(identity.certificates(), identity.key(), &provider).map(drop).map_err(
        |error| {
            let message =
                format!("the certificate for peers and its key do not go together: {error}");
            Error::new(ErrorKind::InvalidArgument, message)
        },
    )
}

/// For connections to this peer, and no other; and the name that it is expected to have.
pub(crate) fn client_config(
    identity: &Identity,
    authority: Option<&Authority>,
    peer: &PeerId,
) -> Result<(ClientConfig, ServerName<'static>)> {
    let provider = Arc::new(ring::default_provider());
    let (verifier, name): (Arc<dyn ServerCertVerifier>, _) = match (peer, authority) {
        (PeerId::Certificate(fingerprint), _) => {
            let provider = Arc::clone(&provider);
            (Arc::new(Deciding { accepts: *fingerprint, provider }), SERVER_NAME)
        }
        (PeerId::Name(name), Some(authority)) => (authority.of_servers(&provider)?, name.as_str()),
        (PeerId::Name(name), None) => {
            let message = format!(
                "the peer is known by the name {name} in its certificate, and this daemon by no authority: start it with --peer-ca"
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
    };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, "a peer's name is no DNS name"))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.certificates(), identity.key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, name))
}

/// For connections of whoever is listed when it connects. Sessions are not resumed, so that a certificate is shown,
/// and judged, each time.
pub(crate) fn server_config(identity: &Identity, judge: &Arc<Judge>) -> Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Deciding { accepts: Arc::clone(judge), provider: Arc::clone(&provider) };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.certificates(), identity.key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

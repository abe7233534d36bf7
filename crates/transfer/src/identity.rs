//! Who a daemon is: a key and a certificate, self-made and known by its fingerprint, or signed by an authority and known by
//! a name in it.

use crate::tls::check_pair;
use blockyard_block::{Error, ErrorKind, HashAlgorithm, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt;

/// SHA-256 of a certificate's DER bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(HashAlgorithm::Sha256.hash(certificate).0)
    }

    /// 64 hexadecimal digits; colons between them are left out.
    pub fn parse(text: &str) -> Result<Fingerprint> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return Err(no_fingerprint());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(no_fingerprint);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Fingerprint(bytes))
    }
}

fn no_fingerprint() -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "a fingerprint has 64 hexadecimal digits: `blockyard identity` on the peer prints it",
    )
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// By what a peer is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerId {
    /// It has this very certificate.
    Certificate(Fingerprint),
    /// It has one for this DNS name, signed by the authority.
    Name(String),
}

impl PeerId {
    /// A DNS name, without wildcards.
    pub fn name(text: &str) -> Result<PeerId> {
        match ServerName::try_from(text) {
            Ok(ServerName::DnsName(name)) => Ok(PeerId::Name(name.as_ref().to_ascii_lowercase())),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{text:?} is no DNS name that a certificate could have"),
            )),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerId::Certificate(fingerprint) => write!(f, "{fingerprint}"),
            PeerId::Name(name) => write!(f, "{name}"),
        }
    }
}

/// A private key and its certificate, with those that lead to the authority. It shows neither in messages nor in logs.
pub struct Identity {
    certificate: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// A new one, in the form that [`Identity::from_pem`] reads: to be kept where only the daemon's user
    /// can read it.
    pub fn generate_pem() -> Result<String> {
        let failed = |error: rcgen::Error| {
            Error::new(ErrorKind::Io, format!("cannot make a certificate: {error}"))
        };
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let parameters =
            rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(failed)?;
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
    }

    pub fn from_pem(pem: &str) -> Result<Identity> {
        let broken = |error: rustls::pki_types::pem::Error| {
            Error::new(ErrorKind::Corrupt, format!("the daemon's identity cannot be read: {error}"))
        };
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(broken)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(broken)?;
        Ok(Identity { certificate, intermediates: Vec::new(), key })
    }

    /// One that an authority has signed: its certificate first, then those between, and the key, as PEM.
    pub fn from_chain(certificates: &str, key: &str) -> Result<Identity> {
        let spoilt = |what: &str, error: rustls::pki_types::pem::Error| {
            Error::new(ErrorKind::InvalidArgument, format!("{what} cannot be read: {error}"))
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| spoilt("the key for peers", error))?;
        let mut chain = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| spoilt("the certificate for peers", error))?
            .into_iter();
        let Some(certificate) = chain.next() else {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "there is no certificate in the file of the certificate for peers",
            ));
        };
        let identity = Identity { certificate, intermediates: chain.collect(), key };
        check_pair(&identity)?;
        Ok(identity)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    pub(crate) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        [std::slice::from_ref(&self.certificate), &self.intermediates].concat()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// The name in every self-made certificate. It says nothing: fingerprints are compared.
pub(crate) const SERVER_NAME: &str = "blockyard";

#[cfg(test)]
mod tests {
    use super::{Fingerprint, Identity};

    #[test]
    fn an_identity_that_was_written_down_is_the_same_one() {
        let pem = Identity::generate_pem().unwrap();
        let identity = Identity::from_pem(&pem).unwrap();
        assert_eq!(Identity::from_pem(&pem).unwrap().fingerprint(), identity.fingerprint());
        let other = Identity::from_pem(&Identity::generate_pem().unwrap()).unwrap();
        assert_ne!(other.fingerprint(), identity.fingerprint());
        let text = identity.fingerprint().to_string();
        assert_eq!(Fingerprint::parse(&text).unwrap(), identity.fingerprint());
        for wrong in ["", &text[1..], &text.replace(&text[..1], "x"), "ä"] {
            assert!(Fingerprint::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Identity::from_pem(&pem[..pem.len() / 2]).is_err());
    }
}

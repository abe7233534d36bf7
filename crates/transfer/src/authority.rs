//! An ordinary authority: whoever shows a certificate for a name, signed by it and in its time, has that name. Which names are
//! peers is a list's business; revocation lists are not asked.

use crate::identity::PeerId;
use blockyard_block::{Error, ErrorKind, Result};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use std::sync::Arc;

/// Whose signature counts.
#[derive(Clone)]
pub struct Authority {
    roots: Arc<RootCertStore>,
}

impl Authority {
    /// One certificate or several, as PEM.
    pub fn from_pem(pem: &str) -> Result<Authority> {
        let spoilt = |error: String| {
            let message =
                format!("the certificate of the authority for peers cannot be used: {error}");
            Error::new(ErrorKind::InvalidArgument, message)
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| spoilt(error.to_string()))?;
            roots.add(certificate).map_err(|error| spoilt(error.to_string()))?;
        }
        match roots.is_empty() {
            true => Err(spoilt("there is none in the file".to_owned())),
            false => Ok(Authority { roots: Arc::new(roots) }),
        }
    }

    /// Judges whom this daemon calls.
    pub(crate) fn of_servers(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>> {
        let built = WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(provider),
        );
        Ok(built.build().map_err(|error| unusable(&error))?)
    }

    /// Judges who calls.
    pub(crate) fn of_clients(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>> {
        let built = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(provider),
        );
        built.build().map_err(|error| unusable(&error))
    }
}

fn unusable(error: &dyn std::fmt::Display) -> Error {
    let message = format!("the authority for peers cannot be used: {error}");
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Who of those called `names` has this certificate, if the authority's verifier agrees.
pub(crate) fn named(
    verifier: &dyn ClientCertVerifier,
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    names: impl IntoIterator<Item = String>,
) -> Result<PeerId, rustls::Error> {
    verifier.verify_client_cert(certificate, intermediates, now)?;
    let parsed = ParsedCertificate::try_from(certificate)?;
    let has = |name: &String| {
        let name = ServerName::try_from(name.as_str());
        name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
    };
    let found = names.into_iter().find(has).map(PeerId::Name);
    found.ok_or_else(|| CertificateError::ApplicationVerificationFailure.into())
}

//! Who a daemon is: a key and a self-made certificate, known by the fingerprint of the latter.

use blockyard_block::{Error, ErrorKind, HashAlgorithm, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
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

/// A private key and its certificate. It shows neither in messages nor in logs.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
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
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(broken)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(broken)?;
        Ok(Identity { certificate, key })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    pub(crate) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// The name in every certificate. It says nothing: fingerprints are compared.
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

//! The daemons that this one knows, and who it is itself: two files in the pool's directory.
//!
//! `identity.pem` has the private key and is made when first needed; `peers.json` is the list. Each change is on
//! disk before it counts, and counts at once: peers are looked up when they call, and while they are served.

use crate::daemon::peer_runtime::PeerRuntime;
use crate::daemon::plan::{PeerAuthority, Plan};
use blockyard_api::{Peer, PeerAllow};
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_transfer::{Allowed, Authority, Fingerprint, Identity, PeerId};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

const IDENTITY: &str = "identity.pem";
const LIST: &str = "peers.json";
/// More are a mistake.
const PEERS_MAX: usize = 1000;
/// Of the images of one peer.
const PATTERNS_MAX: usize = 100;

/// All that the daemon knows of others.
pub(crate) struct Peers {
    folder: PathBuf,
    runtime: Arc<PeerRuntime>,
    listener: Mutex<Option<TcpListener>>,
    address: Option<String>,
    identity: Mutex<Option<Arc<Identity>>>,
    authority: Option<Authority>,
    list: Mutex<BTreeMap<String, Peer>>,
}

impl Peers {
    /// Reads the list, and binds where peers may call.
    pub(crate) fn load(plan: &Plan, runtime: &Arc<PeerRuntime>) -> Result<Peers> {
        let listener = plan.peer.as_deref().map(bind).transpose()?;
        let address = listener.as_ref().and_then(|bound| bound.local_addr().ok());
        let list = match fs::read(plan.pool.join(LIST)) {
            Ok(text) => decode(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::io(LIST, error)),
        };
        let signed = plan.peer_authority.as_ref().map(read_signed).transpose()?;
        let (identity, authority) = signed.unzip();
        let peers = Peers {
            folder: plan.pool.clone(),
            runtime: Arc::clone(runtime),
            listener: Mutex::new(listener),
            address: address.map(|address| address.to_string()),
            identity: Mutex::new(identity.map(Arc::new)),
            authority,
            list: Mutex::new(list),
        };
        if peers.address.is_some() {
            peers.identity()?;
        }
        Ok(peers)
    }

    /// Carries conversations with peers.
    pub(crate) fn runtime(&self) -> Result<Handle> {
        self.runtime.handle()
    }

    /// Where peers can call.
    pub(crate) fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The bound socket, once.
    pub(crate) fn listener(&self) -> Result<Option<TcpListener>> {
        Ok(lock(&self.listener).take())
    }

    /// Who signs certificates of peers, if anybody does.
    pub(crate) fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// The DNS names by which peers are known.
    pub(crate) fn certificate_names(&self) -> Vec<String> {
        let list = lock(&self.list);
        list.values().filter_map(|peer| peer.certificate_name.clone()).collect()
    }

    /// Who this daemon is; made if nobody asked before.
    pub(crate) fn identity(&self) -> Result<Arc<Identity>> {
        let mut known = lock(&self.identity);
        if let Some(identity) = &*known {
            return Ok(Arc::clone(identity));
        }
        let pem = match fs::read_to_string(self.folder.join(IDENTITY)) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pem = Identity::generate_pem()?;
                replace(&self.folder, IDENTITY, pem.as_bytes())?;
                pem
            }
            Err(error) => return Err(Error::io(IDENTITY, error)),
        };
        let identity = Arc::new(Identity::from_pem(&pem)?);
        *known = Some(Arc::clone(&identity));
        Ok(identity)
    }

    pub(crate) fn list(&self) -> Vec<Peer> {
        lock(&self.list).values().cloned().collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Peer> {
        lock(&self.list).get(name).cloned().ok_or_else(|| no_peer(name))
    }

    pub(crate) fn add(&self, peer: Peer) -> Result<Peer> {
        let peer = checked(peer)?;
        let mut list = lock(&self.list);
        if list.contains_key(&peer.name) {
            let message = format!("there is a peer called {} already: remove it first", peer.name);
            return Err(Error::new(ErrorKind::Exists, message));
        }
        let id = id_of(&peer)?;
        if let Some(same) = list.values().find(|other| id_of(other).is_ok_and(|it| it == id)) {
            let message = format!("the peer {} has this certificate", same.name);
            return Err(Error::new(ErrorKind::Exists, message));
        }
        if self.authority.is_none() && peer.certificate_name.is_some() {
            let message = "this daemon knows no authority that signs certificates: start it with --peer-ca, or name the peer's fingerprint";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if list.len() >= PEERS_MAX {
            let message = format!("{PEERS_MAX} peers are known already");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut changed = list.clone();
        changed.insert(peer.name.clone(), peer.clone());
        self.keep(&changed)?;
        *list = changed;
        Ok(peer)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let mut list = lock(&self.list);
        let mut changed = list.clone();
        changed.remove(name).ok_or_else(|| no_peer(name))?;
        self.keep(&changed)?;
        *list = changed;
        Ok(())
    }

    /// The name of this peer here, and what it may do now.
    pub(crate) fn known(&self, peer: &PeerId) -> Option<(String, Allowed)> {
        let list = lock(&self.list);
        let peer = match peer {
            PeerId::Certificate(fingerprint) => {
                let text = fingerprint.to_string();
                list.values().find(|peer| peer.fingerprint.as_ref() == Some(&text))?
            }
            PeerId::Name(name) => {
                list.values().find(|peer| peer.certificate_name.as_ref() == Some(name))?
            }
        };
        let allowed = match peer.allow {
            PeerAllow::None => Allowed::default(),
            PeerAllow::Push => Allowed { push: true, ..Allowed::default() },
            PeerAllow::Pull => Allowed { pull: true, ..Allowed::default() },
            PeerAllow::Both => Allowed { push: true, pull: true, ..Allowed::default() },
        };
        let allowed = Allowed { images: peer.images.clone(), ..allowed };
        Some((peer.name.clone(), allowed))
    }

    fn keep(&self, list: &BTreeMap<String, Peer>) -> Result<()> {
        let peers: Vec<&Peer> = list.values().collect();
        let text = serde_json::to_vec_pretty(&peers)
            .map_err(|error| Error::io(LIST, io::Error::from(error)))?;
        replace(&self.folder, LIST, &text)
    }
}

/// By what a peer of the list is known.
pub(crate) fn id_of(peer: &Peer) -> Result<PeerId> {
    match (&peer.fingerprint, &peer.certificate_name) {
        (Some(fingerprint), None) => Fingerprint::parse(fingerprint).map(PeerId::Certificate),
        (None, Some(name)) => PeerId::name(name),
        _ => Err(Error::new(
            ErrorKind::InvalidArgument,
            "a peer is known by a fingerprint or by the name in its certificate, and by one of them alone",
        )),
    }
}

/// What the authority has signed for this daemon, and the authority.
fn read_signed(files: &PeerAuthority) -> Result<(Identity, Authority)> {
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|error| Error::io(path.display(), error));
    let place = |path: &Path, error: Error| error.at(path.display());
    let authority = Authority::from_pem(&read(&files.authority)?);
    let authority = authority.map_err(|error| place(&files.authority, error))?;
    let identity = Identity::from_chain(&read(&files.certificate)?, &read(&files.key)?);
    Ok((identity.map_err(|error| place(&files.certificate, error))?, authority))
}

fn decode(text: &[u8]) -> Result<BTreeMap<String, Peer>> {
    let peers: Vec<Peer> = serde_json::from_slice(text).map_err(|error| {
        Error::new(
            ErrorKind::Corrupt,
            format!("the list of peers ({LIST}) cannot be read: {error}"),
        )
    })?;
    let named = |peer: Peer| checked(peer).map(|peer| (peer.name.clone(), peer));
    peers.into_iter().map(named).collect()
}

/// Names are like those of images, so that `PEER/NAME` has one meaning; fingerprints have one form.
fn checked(peer: Peer) -> Result<Peer> {
    let name = ImageName::parse(&peer.name)
        .map_err(|_| {
            let message = format!(
                "{:?} is not a peer's name: use 1 to 128 letters, digits, '.', '_' or '-'",
                peer.name.chars().take(140).collect::<String>()
            );
            Error::new(ErrorKind::InvalidArgument, message)
        })?
        .to_string();
    let port = peer.address.rsplit_once(':').and_then(|(host, port)| {
        (!host.is_empty() && peer.address.len() < 300).then(|| port.parse::<u16>().ok())?
    });
    if port.is_none_or(|port| port == 0) {
        let message = format!("{:?} is no address: use HOST:PORT", peer.address);
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let of_names = |pattern: &String| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-*?".contains(&byte);
        (1..=128).contains(&pattern.len()) && pattern.bytes().all(plain)
    };
    if peer.images.len() > PATTERNS_MAX || !peer.images.iter().all(of_names) {
        let message = format!(
            "{:?} are not patterns of images' names: use at most {PATTERNS_MAX}, of letters, digits, '.', '_', '-', '*' and '?'",
            peer.images.iter().take(3).collect::<Vec<_>>()
        );
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let (fingerprint, certificate_name) = match id_of(&peer)? {
        PeerId::Certificate(fingerprint) => (Some(fingerprint.to_string()), None),
        PeerId::Name(name) => (None, Some(name)),
    };
    Ok(Peer { name, fingerprint, certificate_name, ..peer })
}

fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .map_err(|error| Error::io(format_args!("cannot listen for peers at {address}"), error))
}

/// Writes a file of the pool's directory anew: the old one or the new one is there, whatever happens. The
/// daemon's mask makes it its user's alone.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let written = || {
        let new = folder.join(format!("{name}.new"));
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, folder.join(name))?;
        File::open(folder)?.sync_all()
    };
    written().map_err(|error| Error::io(format_args!("cannot write {name}"), error))
}

fn no_peer(name: &str) -> Error {
    let message = format!("no peer is called {name}: `blockyard peer list` shows those there are");
    Error::new(ErrorKind::NotFound, message)
}

/// What is behind these locks is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::checked;
    use blockyard_api::{Peer, PeerAllow};

    #[test]
    fn a_peer_has_a_name_an_address_and_a_fingerprint_of_one_form() {
        let peer = |name: &str, address: &str, fingerprint: &str| {
            checked(Peer {
                name: name.to_owned(),
                address: address.to_owned(),
                fingerprint: Some(fingerprint.to_owned()),
                certificate_name: None,
                allow: PeerAllow::None,
                images: vec!["web-*".to_owned()],
            })
        };
        let digits = "AB".repeat(32);
        let known = peer("b", "[::1]:7070", &digits).unwrap();
        assert_eq!(known.fingerprint, Some("ab".repeat(32)));
        let named = |name: &str| {
            let certificate_name = Some(name.to_owned());
            checked(Peer { fingerprint: None, certificate_name, ..known.clone() })
        };
        let name = named("B.Example").unwrap().certificate_name;
        assert_eq!(name.as_deref(), Some("b.example"));
        for wrong in ["", "*.example", "10.0.0.1", "a b"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
        let both = Peer { certificate_name: Some("b".to_owned()), ..known.clone() };
        assert!(checked(both).is_err());
        assert!(checked(Peer { fingerprint: None, ..known.clone() }).is_err());
        for (name, address, fingerprint) in [
            ("a/b", "host:1", digits.as_str()),
            ("a", "host", &digits),
            ("a", ":1", &digits),
            ("a", "host:0", &digits),
            ("a", "host:70000", &digits),
            ("a", "host:1", &digits[2..]),
        ] {
            assert!(peer(name, address, fingerprint).is_err(), "{name} {address} {fingerprint}");
        }
    }
}

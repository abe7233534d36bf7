//! What this daemon keeps for images of peers that are filled from here: a hidden snapshot for each, and the list of them in
//! `dependants.json`.
//!
//! The snapshot is durable before it is listed, and listed before the peer hears of it. A snapshot that no list names is
//! removed at the next start. A dependant goes when its peer lets go of it, or when its image is removed by force.

use crate::daemon::Daemon;
use crate::daemon::engine::HostPool;
use crate::daemon::kept_list::KeptList;
use crate::daemon::storage::now_unix_s;
use blockyard_api::ImageDependant;
use blockyard_block::{Error, ErrorKind, ImageId, ImageName, Result};
use blockyard_io::HostDirectory;
use blockyard_pool::Volume;
use blockyard_transfer::{DependantId, Origins, PeerId};
use pollster::block_on;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

const FILE: &str = "dependants.json";
/// Of one peer.
const DEPENDANTS_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependant {
    /// By what the peer is known: the fingerprint of its certificate, or the name in it. And what it was called when it asked.
    known_by: String,
    peer: String,
    id: String,
    /// The image it was pulled from, and the snapshot that is kept.
    image: u64,
    snapshot: u64,
    since_unix_s: u64,
}

pub(crate) struct Dependants {
    list: KeptList<Dependant>,
    /// Held while one comes or goes.
    changing: Mutex<()>,
}

impl Dependants {
    pub(crate) fn load(folder: &Path) -> Result<Dependants> {
        let list = KeptList::load(folder, FILE, "the list of dependants")?;
        Ok(Dependants { list, changing: Mutex::default() })
    }

    /// Whether a snapshot is kept for one.
    pub(crate) fn keep_snapshot(&self, snapshot: ImageId) -> bool {
        self.list.list().iter().any(|dependant| dependant.snapshot == snapshot.0)
    }

    /// Those of an image.
    pub(crate) fn of_image(&self, image: ImageId) -> Vec<ImageDependant> {
        let list = self.list.list().into_iter();
        let told = |dependant: Dependant| ImageDependant {
            peer: dependant.peer,
            id: dependant.id,
            since_unix_s: dependant.since_unix_s,
        };
        list.filter(|dependant| dependant.image == image.0).map(told).collect()
    }

    /// Refuses to remove what others need.
    pub(crate) fn check_none(&self, image: ImageId, name: &ImageName) -> Result<()> {
        let dependants = self.of_image(image);
        let Some(first) = dependants.first() else { return Ok(()) };
        let (count, peer) = (dependants.len(), &first.peer);
        let message = format!(
            "{count} images of peers ({peer} has the first) are filled from {name}: wait until they are, or use --force, and what they lack is lost to them"
        );
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Forgets all of an image, with what was kept for them.
    pub(crate) fn forget_image(&self, pool: &HostPool, image: ImageId) -> Result<()> {
        self.forget(pool, |dependant| dependant.image == image.0)
    }

    fn forget(&self, pool: &HostPool, gone: impl Fn(&Dependant) -> bool) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshots: Vec<u64> =
            self.list.list().iter().filter(|one| gone(one)).map(|one| one.snapshot).collect();
        self.list.change(|list| list.retain(|dependant| !gone(dependant)))?;
        pool.remove_left(now_unix_s(), |left| snapshots.contains(&left.id.0));
        Ok(())
    }
}

/// What is kept for one peer.
pub(crate) struct OfPeer<'a> {
    pub(crate) daemon: &'a Daemon,
    pub(crate) known_by: PeerId,
    pub(crate) peer: &'a str,
}

impl OfPeer<'_> {
    fn is(&self, dependant: &Dependant, id: &str) -> bool {
        dependant.known_by == self.known_by.to_string() && dependant.id == id
    }
}

impl Origins<HostDirectory> for OfPeer<'_> {
    fn hold(&self, image: &ImageName, id: DependantId) -> Result<Volume<HostDirectory>> {
        self.let_go(id)?;
        let (pool, dependants) = (&self.daemon.pool, &self.daemon.dependants);
        let found = pool.image(image)?;
        let source = block_on(pool.hold_snapshot(image, true, now_unix_s()))?;
        block_on(pool.make_durable())?;
        let dependant = Dependant {
            known_by: self.known_by.to_string(),
            peer: self.peer.to_owned(),
            id: id.to_string(),
            image: found.id.0,
            snapshot: source.id().0,
            since_unix_s: now_unix_s(),
        };
        let _changing = dependants.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // Removed meanwhile, it would have a dependant that nobody sees.
        pool.image(image)?;
        let list = dependants.list.list();
        let of_peer = list.iter().filter(|other| other.known_by == dependant.known_by);
        if of_peer.count() >= DEPENDANTS_MAX {
            let message = format!("{DEPENDANTS_MAX} images are filled from here by this peer");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        dependants.list.change(|list| list.push(dependant))?;
        let snapshot = source.id();
        source.leave(now_unix_s());
        pool.open_left_snapshot(snapshot)
    }

    fn open(&self, id: DependantId) -> Result<(Volume<HostDirectory>, Vec<u32>)> {
        let id = id.to_string();
        let list = self.daemon.dependants.list.list();
        let gone = || {
            Error::new(
                ErrorKind::NotFound,
                "nothing is kept for this image any more: it was removed there by force",
            )
        };
        let found = list.iter().find(|dependant| self.is(dependant, &id)).ok_or_else(gone)?;
        let source = self.daemon.pool.open_left_snapshot(ImageId(found.snapshot))?;
        Ok((source, self.daemon.profiles.of_image(ImageId(found.image))))
    }

    fn let_go(&self, id: DependantId) -> Result<()> {
        let id = id.to_string();
        self.daemon.dependants.forget(&self.daemon.pool, |dependant| self.is(dependant, &id))
    }
}

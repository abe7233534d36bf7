//! What this daemon keeps for images of peers that are filled from here: a hidden snapshot for each, and the list of them in
//! `dependants.json`.
//!
//! The snapshot is durable before it is listed, and listed before the peer hears of it. A snapshot that no list names is
//! removed at the next start. A dependant goes when its peer lets go of it, when its image is removed by force, or when a
//! user removes it.

use crate::daemon::Daemon;
use crate::daemon::engine::HostPool;
use crate::daemon::kept_list::KeptList;
use crate::daemon::storage::now_unix_s;
use blockyard_api::ImageDependant;
use blockyard_block::{Error, ErrorKind, ImageId, ImageName, Result};
use blockyard_io::HostDirectory;
use blockyard_pool::Volume;
use blockyard_transfer::{DependantId, Kept, LetGo, Origins, PeerId, hold_for_dependant};
use pollster::block_on;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
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
    /// The image it was pulled from, by the name it had then, and the snapshot that is kept.
    source: String,
    image: u64,
    snapshot: u64,
    since_unix_s: u64,
}

pub(crate) struct Dependants {
    list: KeptList<Dependant>,
    /// Held while one comes or goes.
    changing: Mutex<()>,
    let_go: LetGo,
}

impl Dependants {
    pub(crate) fn load(folder: &Path) -> Result<Dependants> {
        let list = KeptList::load(folder, FILE, "the list of dependants")?;
        Ok(Dependants { list, changing: Mutex::default(), let_go: LetGo::default() })
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
        let which = match dependants.len() {
            1 => format!("an image of {} is", first.peer),
            count => format!("{count} images of peers ({} has the first) are", first.peer),
        };
        let message = format!(
            "{which} filled from {name}: wait until that is done (`image fill` there brings the rest of one that is not), or remove those that `image info` shows and that never come back with `image remove-dependant`, or all with --force: what they lack is lost to them"
        );
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Forgets all of an image, with what was kept for them.
    pub(crate) fn forget_image(&self, pool: &HostPool, image: ImageId) -> Result<()> {
        self.forget(pool, |dependant| dependant.image == image.0)
    }

    /// Forgets one that does not come back, with what was kept for it.
    pub(crate) fn remove(&self, pool: &HostPool, image: ImageId, id: &str) -> Result<()> {
        if !self.of_image(image).iter().any(|dependant| dependant.id == id) {
            let message = format!(
                "no dependant has the id {id}: `blockyard image info` shows those there are"
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        self.forget(pool, |dependant| dependant.image == image.0 && dependant.id == id)
    }

    /// Forgets those of images that are gone, which a crash left.
    pub(crate) fn forget_gone(&self, pool: &HostPool) -> Result<()> {
        let images: BTreeSet<u64> = pool.images().into_iter().map(|image| image.id.0).collect();
        self.forget(pool, |dependant| !images.contains(&dependant.image))
    }

    fn forget(&self, pool: &HostPool, gone: impl Fn(&Dependant) -> bool) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(pool, gone, None)
    }

    /// Takes some off and puts one on, at once; then what was kept for those goes. The caller holds `changing`.
    fn change(
        &self,
        pool: &HostPool,
        gone: impl Fn(&Dependant) -> bool,
        new: Option<Dependant>,
    ) -> Result<()> {
        let list = self.list.list();
        let snapshots: Vec<u64> =
            list.iter().filter(|one| gone(one)).map(|one| one.snapshot).collect();
        self.list.change(|list| {
            list.retain(|dependant| !gone(dependant));
            list.extend(new);
        })?;
        if !snapshots.is_empty() {
            pool.remove_left(now_unix_s(), |left| snapshots.contains(&left.id.0));
        }
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

    /// By the name that it was allowed by.
    fn find<'l>(
        &self,
        list: &'l [Dependant],
        image: &ImageName,
        id: &str,
    ) -> Option<&'l Dependant> {
        list.iter().find(|one| self.is(one, id) && one.source == image.to_string())
    }

    fn hold_now(&self, image: &ImageName, id: DependantId) -> Result<Volume<HostDirectory>> {
        let (pool, dependants) = (&self.daemon.pool, &self.daemon.dependants);
        // Asked for again, or let go, meanwhile: that waits.
        let _changing = dependants.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let known_by = self.known_by.to_string();
        dependants.let_go.check(&known_by, id)?;
        let id = id.to_string();
        let list = dependants.list.list();
        let kept = self.find(&list, image, &id).map(|kept| ImageId(kept.snapshot));
        let others = list.iter().filter(|other| other.known_by == known_by && other.id != id);
        if others.count() >= DEPENDANTS_MAX {
            let message = format!("{DEPENDANTS_MAX} images are filled from here by this peer");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        block_on(hold_for_dependant(pool, image, kept, now_unix_s(), async |found, snapshot| {
            let dependant = Dependant {
                known_by,
                peer: self.peer.to_owned(),
                id: id.clone(),
                source: image.to_string(),
                image: found.0,
                snapshot: snapshot.0,
                since_unix_s: now_unix_s(),
            };
            dependants.change(pool, |before| self.is(before, &id), Some(dependant))
        }))
    }
}

/// On the thread of the conversation, which may block.
impl Origins<HostDirectory> for OfPeer<'_> {
    fn hold<'a>(
        &'a self,
        image: &'a ImageName,
        id: DependantId,
    ) -> Kept<'a, Volume<HostDirectory>> {
        Box::pin(async move { self.hold_now(image, id) })
    }

    fn open(
        &self,
        image: &ImageName,
        id: DependantId,
    ) -> Result<(Volume<HostDirectory>, Vec<u32>)> {
        let id = id.to_string();
        let list = self.daemon.dependants.list.list();
        let gone = || {
            Error::new(
                ErrorKind::NotFound,
                "nothing is kept for this image any more: it, or its dependant, was removed there",
            )
        };
        let found = self.find(&list, image, &id).ok_or_else(gone)?;
        let source = self.daemon.pool.open_left_snapshot(ImageId(found.snapshot))?;
        Ok((source, self.daemon.profiles.of_image(ImageId(found.image))))
    }

    fn let_go(&self, id: DependantId) -> Kept<'_, ()> {
        Box::pin(async move {
            let dependants = &self.daemon.dependants;
            let _changing = dependants.changing.lock().unwrap_or_else(PoisonError::into_inner);
            dependants.let_go.note(&self.known_by.to_string(), id);
            let id = id.to_string();
            dependants.change(&self.daemon.pool, |dependant| self.is(dependant, &id), None)
        })
    }
}

//! Images here that are used while they are filled: a job for each that fetches, and what is owed to their origins.
//!
//! Before a peer is asked to keep something for a dependant, that is noted in `origins.json`. The note goes when the peer was
//! told to let go of it; that is due as soon as no image here is filled by it and no pull is under way that may make
//! one. So whatever ends an image or a pull, the origin hears of it.

mod debts;
mod fill;

pub(crate) use debts::watch_debts;
pub(crate) use fill::start_fills;

use crate::daemon::Daemon;
use crate::daemon::kept_list::KeptList;
use blockyard_api::{ImageLazy, TransferTerms};
use blockyard_block::{Error, ErrorKind, ImageId, Result};
use blockyard_pool::Lazy;
use blockyard_transfer::DependantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

const FILE: &str = "origins.json";

/// What is kept with a lazy image in the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) peer: String,
    /// The image's name there.
    pub(crate) source: String,
    pub(crate) dependant: String,
    pub(crate) wait_s: u64,
    pub(crate) terms: TransferTerms,
}

impl Origin {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::io("an origin", error.into()))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Origin> {
        serde_json::from_slice(bytes).ok()
    }
}

/// A peer keeps something for a dependant of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Debt {
    peer: String,
    source: String,
    dependant: String,
    /// Whether the image is filled in the background.
    fill: bool,
}

/// What is known of lazy images beside the pool.
pub(crate) struct LazyImages {
    debts: KeptList<Debt>,
    /// There is a new one.
    noted: Notify,
    /// The jobs that fetch.
    jobs: Mutex<BTreeMap<ImageId, u64>>,
}

impl LazyImages {
    pub(crate) fn load(folder: &Path) -> Result<LazyImages> {
        let debts = KeptList::load(folder, FILE, "the list of what peers keep for images here")?;
        Ok(LazyImages { debts, noted: Notify::new(), jobs: Mutex::default() })
    }

    /// To be called before the peer is asked.
    pub(crate) fn note(&self, origin: &Origin, fill: bool) -> Result<()> {
        self.debts.change(|list| {
            if !list.iter().any(|debt| debt.dependant == origin.dependant) {
                list.push(Debt {
                    peer: origin.peer.clone(),
                    source: origin.source.clone(),
                    dependant: origin.dependant.clone(),
                    fill,
                });
            }
        })?;
        self.noted.notify_one();
        Ok(())
    }

    fn fills(&self, dependant: &str) -> bool {
        let debts = self.debts.list();
        debts.iter().find(|debt| debt.dependant == dependant).is_none_or(|debt| debt.fill)
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<ImageId, u64>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As it is told of.
pub(crate) fn describe(daemon: &Daemon, lazy: &Lazy) -> ImageLazy {
    let origin = Origin::decode(&lazy.origin);
    let of_origin = |field: fn(Origin) -> String| origin.clone().map(field).unwrap_or_default();
    let dependant = of_origin(|origin| origin.dependant);
    ImageLazy {
        peer: of_origin(|origin| origin.peer),
        source: of_origin(|origin| origin.source),
        bytes_listed: lazy.bytes_listed,
        bytes_missing: lazy.bytes_missing,
        bytes_refused: lazy.bytes_refused,
        fill: daemon.lazy.fills(&dependant),
        job: daemon.lazy.jobs().get(&lazy.id).copied(),
        broken: lazy.broken.clone(),
    }
}

/// Brings the rest of an image in the background from now on.
pub(crate) fn fill(daemon: &Daemon, id: ImageId) -> Result<()> {
    let whole = || Error::new(ErrorKind::InvalidArgument, "the image is all here already");
    let lazy = daemon.pool.lazy_image(id).ok_or_else(whole)?;
    let origin = Origin::decode(&lazy.origin).ok_or_else(whole)?;
    daemon.lazy.debts.change(|list| {
        for debt in list.iter_mut().filter(|debt| debt.dependant == origin.dependant) {
            debt.fill = true;
        }
    })
}

/// A new one.
pub(crate) fn new_dependant() -> Result<DependantId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Error::io("random id", error.into()))?;
    Ok(DependantId(id))
}

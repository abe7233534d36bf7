//! What an origin keeps for a dependant, and when it need not any more. In which order things become durable here decides
//! whether a crash of either side can leave an image that nobody can fill.

use super::DependantId;
use blockyard_block::{Error, ErrorKind, ImageId, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::{Pool, Volume};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Dependants that were let go of in this run of the daemon. An order of one may be late on its way, or lie unread, while
/// the release that followed it comes by another connection: what was kept for it then, nobody would let go of.
#[derive(Default)]
pub struct LetGo {
    recent: Mutex<VecDeque<(String, DependantId)>>,
}

/// An order that is late is not later than so many releases.
const LET_GO_MAX: usize = 10_000;

impl LetGo {
    /// To be called with the list locked, as for `check`. `peer` is what the dependant's pool is known by.
    pub fn note(&self, peer: &str, dependant: DependantId) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == LET_GO_MAX {
            recent.pop_front();
        }
        recent.push_back((peer.to_owned(), dependant));
    }

    /// Refuses to keep anything for one of them.
    pub fn check(&self, peer: &str, dependant: DependantId) -> Result<()> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = recent.iter().any(|(by, id)| *id == dependant && by == peer);
        match gone && !blockyard_io::broken("I16-hold-after-release") {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::NotFound, "the dependant has let go already")),
        }
    }
}

/// Keeps the image as it is now in a hidden snapshot; but what is kept for an earlier order of the same dependant stays: this
/// one may be late, and the image be there already, by the list of the other. A new snapshot is durable before `list` is
/// called, with the ids of image and snapshot, to write them down durably; then the dependant may hear of it. A snapshot that is
/// not on the list is to be removed when the pool is opened.
pub async fn hold_for_dependant<D: Directory>(
    pool: &Arc<Pool<D>>,
    image: &ImageName,
    kept: Option<ImageId>,
    now_unix_s: u64,
    list: impl AsyncFnOnce(ImageId, ImageId) -> Result<()>,
) -> Result<Volume<D>> {
    if let Some(kept) = kept.and_then(|snapshot| pool.open_left_snapshot(snapshot).ok()) {
        return Ok(kept);
    }
    let found = pool.image(image)?.id;
    let source = pool.hold_snapshot(image, true, now_unix_s).await?;
    pool.make_durable().await?;
    // Removed meanwhile, it would have a dependant that nobody sees.
    if pool.image(image)?.id != found {
        return Err(Error::new(ErrorKind::Busy, format!("{image} was replaced meanwhile")));
    }
    let snapshot = source.id();
    list(found, snapshot).await?;
    source.leave(now_unix_s);
    pool.open_left_snapshot(snapshot)
}

/// Those of `dependants` for whom nobody need keep anything: no image here is filled by them, none will be, and that is
/// durable. `ordered` tells those of pulls that have not ended; `of_origin` whose image it is, from what was kept with it.
pub async fn not_needed<D: Directory>(
    pool: &Pool<D>,
    dependants: Vec<DependantId>,
    ordered: impl FnOnce() -> BTreeSet<DependantId>,
    of_origin: impl Fn(&[u8]) -> Option<DependantId>,
) -> Result<Vec<DependantId>> {
    // Orders first: a pull that ends has shown its image before its order goes.
    let mut needed = ordered();
    for (_, origin) in pool.lazy_origins() {
        match of_origin(&origin) {
            Some(dependant) => drop(needed.insert(dependant)),
            // A list that cannot be read does not say whose it is.
            None => return Ok(Vec::new()),
        }
    }
    let is_due = |dependant: &DependantId| !needed.contains(dependant);
    let due: Vec<DependantId> = dependants.into_iter().filter(is_due).collect();
    // That an image is filled or gone may not be durable yet: after a power cut it would need its origin again.
    if !due.is_empty() && !blockyard_io::broken("I16-release-early") {
        pool.make_durable().await?;
    }
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::{LET_GO_MAX, LetGo, hold_for_dependant};
    use crate::fake::{TestPool, image};
    use crate::lazy::DependantId;
    use blockyard_block::HashAlgorithm;
    use blockyard_io::block_on;
    use std::cell::Cell;

    #[test]
    fn an_order_that_comes_once_more_gets_what_was_kept_for_the_first() {
        let place = TestPool::new(HashAlgorithm::Blake3);
        drop(place.image("here", &[1; 8192]));
        let listed = Cell::new(None);
        let hold = || {
            let list = async |_, snapshot| {
                listed.set(Some(snapshot));
                Ok(())
            };
            block_on(hold_for_dependant(&place.pool, &image("here"), listed.get(), 1, list))
                .unwrap()
        };
        let first = block_on(hold().digest()).unwrap();
        block_on(place.pool.remove_image(&image("here"), true)).unwrap();
        drop(place.image("here", &[2; 8192]));
        assert_eq!(block_on(hold().digest()).unwrap(), first);
        listed.set(None);
        assert_ne!(block_on(hold().digest()).unwrap(), first);
    }

    #[test]
    fn nothing_is_kept_for_a_dependant_whose_order_comes_after_its_release() {
        let (let_go, id) = (LetGo::default(), DependantId([7; 16]));
        let_go.check("a", id).unwrap();
        let_go.note("a", id);
        assert!(let_go.check("a", id).is_err());
        let_go.check("b", id).unwrap();
        for number in 0..2 * LET_GO_MAX as u128 {
            let_go.note("b", DependantId(number.to_le_bytes()));
        }
        assert_eq!(let_go.recent.lock().unwrap().len(), LET_GO_MAX);
    }
}

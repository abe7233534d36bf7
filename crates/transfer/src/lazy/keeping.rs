//! What an origin keeps for a dependant, and when it need not any more. In which order things become durable here decides
//! whether a crash of either side can leave an image that nobody can fill.

use super::DependantId;
use blockyard_block::{Error, ErrorKind, ImageId, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::{Pool, Volume};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Keeps the image as it is now in a hidden snapshot. That is durable before `list` is called, with the ids of image and
/// snapshot, to write them down durably, in place of what was kept for the same dependant before; then the dependant may hear
/// of it. A snapshot that is not on the list is to be removed when the pool is opened.
pub async fn hold_for_dependant<D: Directory>(
    pool: &Arc<Pool<D>>,
    image: &ImageName,
    now_unix_s: u64,
    list: impl AsyncFnOnce(ImageId, ImageId) -> Result<()>,
) -> Result<Volume<D>> {
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

//! Images that are used while they are filled. Their origin is the harness: it keeps what the source held, by hash, over
//! every crash. Fetchers bring what is waited for, and the rest when it pleases the seed.

use crate::client::{Client, give_up_after, image_name};
use crate::context::{Context, SimPool};
use crate::manage::NOW_UNIX_S;
use crate::model::{Change, SharedImage};
use crate::receive::{WRITTEN_MEANWHILE, may_miss, read_cluster};
use crate::report::Count;
use blockyard_block::{
    BlockDevice, Buffer, CLUSTER_SIZE, ContentHash, EXTENT_SIZE, Error, ErrorKind, ImageId, Result,
};
use blockyard_pool::{Fetch, Missing, root_hash};
use futures_lite::future::{yield_now, zip};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Contents by their hash.
pub(crate) type Origin = BTreeMap<ContentHash, Vec<u8>>;

impl Client {
    /// Shows an image before it is there.
    pub(crate) async fn receive_lazily(&self) {
        // A read for which there is no space is not judged.
        if self.context.scenario.is_tight() {
            return;
        }
        let Some(source) = self.any_image() else { return };
        let name = self.fresh_name();
        let (source_name, size) = (source.borrow().name.clone(), source.borrow().size);
        let image = self.context.model.borrow_mut().new_image(&name, size, true);
        let what = format!("client {} receive {source_name} lazily as {name}", self.number);
        source.borrow_mut().copies_in_flight += 1;
        let change = Change::Copy { source: Rc::clone(&source), image: Rc::clone(&image) };
        let start = self.begin(&what, change);
        let answer = self.show_lazily(&source_name, &name, size).await;
        source.borrow_mut().copies_in_flight -= 1;
        match answer {
            Err(error) if may_miss(&error) => {
                self.context.trace(format_args!("{what}: {error}"));
                self.context.model.borrow_mut().refuse_change(start);
            }
            answer => {
                let shown = answer.is_ok();
                self.conclude(&what, start, Count::LazyReceives, answer, Some(&source));
                if shown {
                    self.overwrite_fetched(&image).await;
                }
            }
        }
    }

    /// Fetches some of an image, beside those who fetch anyway, and writes to it just while it is kept.
    async fn overwrite_fetched(&self, image: &SharedImage) {
        let Some(opened) = self.open_writable(image) else { return };
        let (pool, id) = (self.context.pool(), opened.volume.id());
        let Some(lazy) = pool.lazy_image(id) else { return };
        let Some(origin) = self.context.origins.borrow().get(&lazy.origin).cloned() else { return };
        let work = async {
            let count_max = 1 + self.context.below(24) as usize;
            let fetch = pool.next_fetch(id, count_max, true).await?;
            let Fetch::Missing(missing) = fetch else { return Ok(()) };
            let slots: Vec<usize> = missing.slots.iter().map(|(slot, _)| *slot).collect();
            let overwrite = self.overwrite(Some(&opened), missing.index, &slots);
            let late = self.context.one_in(2);
            let keep = async {
                if late {
                    yield_now().await;
                }
                keep(&self.context, &pool, id, missing, &origin).await
            };
            let (kept, ()) = zip(keep, overwrite).await;
            kept.inspect_err(|_| pool.forget_fetches(id))
        };
        match work.await {
            Err(error) if !may_end(&error) => {
                self.context.judge_error(format_args!("fetching {}", lazy.name), &error);
            }
            _ => {}
        }
    }

    async fn show_lazily(&self, source: &str, name: &str, size: u64) -> Result<()> {
        let context = &self.context;
        let pool = context.pool();
        let volume = pool.hold_snapshot(&image_name(source), false, NOW_UNIX_S).await?;
        if volume.size() != size {
            return Err(Error::new(ErrorKind::Busy, "the source was resized before"));
        }
        let mut receive = pool.begin_receive(&image_name(name), size, NOW_UNIX_S).await?;
        let polls = if context.one_in(8) { context.below(200) } else { u64::MAX };
        let prepare = async {
            let takes = context.one_in(3);
            let summaries = match takes {
                true => self.take(&mut receive, &volume, None).await?,
                // Nothing of it is found, as if the pool had nothing.
                false => volume.extent_summaries(0, usize::MAX).await?,
            };
            let mut origin = Origin::new();
            for (index, _) in &summaries {
                let hashes = volume.extent_hashes(*index).await?;
                for (slot, hash) in hashes.iter() {
                    let offset = index * EXTENT_SIZE + (slot * CLUSTER_SIZE) as u64;
                    let bytes = read_cluster(&volume, offset).await?;
                    if context.scenario.hash.hash(&bytes) != hash {
                        return Err(Error::new(ErrorKind::Corrupt, WRITTEN_MEANWHILE));
                    }
                    origin.insert(hash, bytes);
                }
            }
            if !takes {
                for (index, summary) in &summaries {
                    let hashes = volume.extent_hashes(*index).await?;
                    receive.lookup().add(*index, *summary, hashes).await?;
                }
            }
            Ok((summaries, origin))
        };
        match give_up_after(polls, prepare).await {
            Some(Ok((summaries, origin))) => {
                let digest = root_hash(context.scenario.hash, size, &summaries);
                let named = name.as_bytes().to_vec();
                context.origins.borrow_mut().insert(named.clone(), Rc::new(origin));
                let verify = context.one_in(2);
                let listed =
                    receive.list_missing(digest, &summaries, named, verify, || Ok(())).await;
                match listed {
                    Ok(listed) => receive.show_lazily(listed).await.map(drop),
                    Err(error) => {
                        receive.abandon().await;
                        Err(error)
                    }
                }
            }
            given_up => {
                receive.abandon().await;
                let dropped = || Err(Error::new(ErrorKind::Busy, "dropped half way"));
                given_up.unwrap_or_else(dropped).map(drop)
            }
        }
    }
}

/// Fetches for all lazy images until the pool is closed; a fetch that is on its way then finds it so.
pub(crate) async fn fetch(context: Rc<Context>) {
    let pool = context.pool();
    loop {
        let Some(demand) = pool.demand() else { return };
        let mut idle = true;
        for lazy in pool.lazy_images() {
            let origin = context.origins.borrow().get(&lazy.origin).cloned();
            let Some(origin) = origin.filter(|_| lazy.broken.is_none()) else {
                context.violated(format_args!("the list of {} is lost: {lazy:?}", lazy.name));
                return;
            };
            match fetch_some(&context, &pool, lazy.id, &origin).await {
                Ok(did) => idle &= !did,
                Err(error) if may_end(&error) => {}
                Err(error) => context.judge_error(format_args!("fetching {}", lazy.name), &error),
            }
        }
        if idle {
            demand.await;
        }
    }
}

/// The image is gone, or the pool closes.
fn may_end(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ShutDown | ErrorKind::Busy)
}

/// One fetch; whether there was something to do.
async fn fetch_some(
    context: &Context,
    pool: &SimPool,
    id: ImageId,
    origin: &Origin,
) -> Result<bool> {
    let background = context.one_in(3);
    match pool.next_fetch(id, 1 + context.below(24) as usize, background).await? {
        Fetch::Nothing => Ok(false),
        Fetch::Filled if context.one_in(2) => {
            pool.end_lazy(id).await?;
            context.note(Count::LazyFilled);
            Ok(true)
        }
        Fetch::Filled => Ok(false),
        Fetch::Missing(missing) => {
            let kept = keep(context, pool, id, missing, origin).await;
            if kept.is_err() || context.one_in(20) {
                pool.forget_fetches(id);
            }
            kept.map(|()| true)
        }
    }
}

async fn keep(
    context: &Context,
    pool: &SimPool,
    id: ImageId,
    missing: Missing,
    origin: &Origin,
) -> Result<()> {
    for run in missing.slots.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
        let hashes: Vec<ContentHash> = run.iter().map(|(_, hash)| *hash).collect();
        let bytes: Vec<u8> = hashes
            .iter()
            .flat_map(|hash| origin.get(hash).cloned().unwrap_or_else(|| vec![0; CLUSTER_SIZE]))
            .collect();
        let data = Buffer::copy_of(&bytes);
        let refused = pool.keep_fetched(id, missing.index, run[0].0, &hashes, &data).await?;
        if refused > 0 {
            context.violated(format_args!("{refused} clusters of the origin are refused"));
        }
        context.totals.borrow_mut().note(Count::ClustersFetched, hashes.len() as u64);
    }
    Ok(())
}

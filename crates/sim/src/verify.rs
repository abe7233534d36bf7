//! The judge of a pool as a client sees it: after a crash, each byte, each hash, each image.
//!
//! What was read is the truth from then on: the pool promises that what it serves after opening is
//! durable.

use crate::client::{Opened, check_segments, image_name};
use crate::content::{SECTOR, Tag};
use crate::context::Context;
use crate::judge::{judge_counts, judge_hashes};
use crate::model::{Rule, SharedImage, Value};
use crate::report::Count;
use blockyard_block::{
    BlockDevice, CLUSTER_SIZE, ContentHash, EXTENT_SIZE, HashAlgorithm, Segment,
};
use blockyard_pool::{Client, ImageKind, MapState};
use std::collections::BTreeMap;
use std::rc::Rc;

const CLUSTER_BYTES: u64 = CLUSTER_SIZE as u64;

/// What the last end of the pool promises about its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survival {
    /// A kill or a clean end: everything acknowledged.
    Acknowledged,
    /// A power cut, or a kill after a failed sync: everything flushed.
    Flushed,
}

/// What an image was found to hold.
#[derive(Default)]
struct Found {
    /// Sectors that are not zero.
    values: BTreeMap<u64, Value>,
    /// Hashes of clusters that were read as data, by offset.
    hashes: BTreeMap<u64, ContentHash>,
}

/// Compares the whole pool with the model, then makes the model what was found.
pub(crate) async fn verify_after_open(
    context: Rc<Context>,
    survival: Survival,
) -> Result<(), String> {
    let pool = context.pool();
    let listed = pool.images().into_iter().map(|info| (info.name.to_string(), info.size_bytes));
    let listed: BTreeMap<String, u64> = listed.collect();
    context.model.borrow_mut().settle_changes(&listed);
    verify_list(&context)?;
    for image in all_images(&context) {
        let since = context.model.borrow_mut().now();
        let rule = match survival {
            Survival::Acknowledged => Rule::Cache { since },
            Survival::Flushed => image.borrow().medium_rule(),
        };
        if is_lazy(&context, &image) && context.origins_apart {
            image.borrow_mut().survive(rule);
            continue;
        }
        let found = verify_image(&context, &image, rule).await?;
        image.borrow_mut().settle(found.values);
    }
    judge(&context).await
}

/// Whether its origin is needed to read it.
fn is_lazy(context: &Context, image: &SharedImage) -> bool {
    let info = context.pool().image(&image_name(&image.borrow().name));
    info.is_ok_and(|info| context.pool().is_lazy(info.id))
}

/// Compares the whole pool with the model while no request is in flight.
pub(crate) async fn verify_at_rest(context: Rc<Context>) -> Result<(), String> {
    verify_list(&context)?;
    for image in all_images(&context) {
        let since = context.model.borrow_mut().now();
        verify_image(&context, &image, Rule::Cache { since }).await?;
    }
    judge(&context).await
}

/// Counts, free space and the hash of every cluster, whoever has it.
async fn judge(context: &Context) -> Result<(), String> {
    let pool = context.pool();
    let inspection = pool.inspect();
    judge_counts(&inspection)?;
    let hash = context.scenario.hash;
    let checked = judge_hashes(&pool, &inspection, &context.world, hash).await?;
    context.totals.borrow_mut().note(Count::HashesChecked, checked);
    Ok(())
}

fn all_images(context: &Context) -> Vec<SharedImage> {
    context.model.borrow().images.values().cloned().collect()
}

/// The pool shows the images of the model and no others.
fn verify_list(context: &Context) -> Result<(), String> {
    let shown: Vec<(String, u64, bool)> = context
        .pool()
        .images()
        .into_iter()
        .map(|info| (info.name.to_string(), info.size_bytes, info.kind == ImageKind::Writable))
        .collect();
    let mut right: Vec<(String, u64, bool)> = Vec::new();
    for (name, image) in &context.model.borrow().images {
        let image = image.borrow();
        right.push((name.clone(), image.size, image.writable));
    }
    let mut sorted = shown.clone();
    sorted.sort();
    match sorted == right {
        true => Ok(()),
        false => Err(format!("the pool lists {shown:?}, the model {right:?}")),
    }
}

async fn verify_image(context: &Context, image: &SharedImage, rule: Rule) -> Result<Found, String> {
    let name = image.borrow().name.clone();
    let client = Client {
        connection: 0,
        pid: None,
        uid: None,
        writes: false,
        purpose: "verification".to_owned(),
    };
    let at = |error| format!("image {name}: {error}");
    let volume = context.pool().open_image(&image_name(&name), client).map_err(at)?;
    let opened = Opened::new(Rc::clone(image), volume);
    let size = image.borrow().size;
    if opened.volume.size() != size {
        return Err(format!("image {name} has {} bytes, not {size}", opened.volume.size()));
    }
    let mut found = Found::default();
    let mut place = 0;
    while place < size {
        let end = (place + EXTENT_SIZE / 4).min(size);
        let segments = opened.volume.read(place, end - place).await.map_err(at)?;
        check_segments(&opened, rule, place..end, &segments)?;
        found.add(place, &segments, context.scenario.hash);
        place = end;
    }
    context.totals.borrow_mut().note(Count::SectorsChecked, size / SECTOR as u64);
    let info = context.pool().image(&image_name(&name)).map_err(at)?;
    // What is not all there tells no hashes.
    if context.pool().lazy_image(info.id).is_none() {
        verify_hashes(context, &name, size, &found).await?;
    }
    Ok(found)
}

impl Found {
    fn add(&mut self, start: u64, segments: &[Segment], hash: HashAlgorithm) {
        let mut bytes: Vec<u8> = Vec::new();
        for segment in segments {
            match segment {
                Segment::Data(data) => bytes.extend_from_slice(data),
                Segment::Zeroes(length) => bytes.resize(bytes.len() + *length as usize, 0),
            }
        }
        for (cluster, content) in (start / CLUSTER_BYTES..).zip(bytes.chunks(CLUSTER_SIZE)) {
            if content.iter().any(|byte| *byte != 0) {
                self.add_cluster(cluster, content, hash);
            }
        }
    }

    fn add_cluster(&mut self, cluster: u64, content: &[u8], hash: HashAlgorithm) {
        let mut whole = [0; CLUSTER_SIZE];
        whole[..content.len()].copy_from_slice(content);
        self.hashes.insert(cluster * CLUSTER_BYTES, hash.hash(&whole));
        let first = cluster * (CLUSTER_SIZE / SECTOR) as u64;
        for (sector, bytes) in (first..).zip(content.chunks_exact(SECTOR)) {
            let value = match Tag::parse(bytes) {
                Some((Tag::ZEROS, _)) => continue,
                Some((tag, place)) if place == sector => Value::Whole(tag),
                _ => {
                    let mut mixed = [0; SECTOR];
                    mixed.copy_from_slice(bytes);
                    Value::Mixed(Rc::new(mixed))
                }
            };
            self.values.insert(sector, value);
        }
    }
}

/// Every hash the pool tells is that of what was read; what it calls zero was read as zeros.
async fn verify_hashes(
    context: &Context,
    name: &str,
    size: u64,
    found: &Found,
) -> Result<(), String> {
    let zeros = context.scenario.hash.hash(&[0; CLUSTER_SIZE]);
    let mut place = 0;
    while place < size {
        let runs = context.pool().map(&image_name(name), place, true).await;
        let runs = runs.map_err(|error| format!("map of {name}: {error}"))?;
        if runs.is_empty() {
            return Err(format!("the map of {name} ends at {place} of {size} bytes"));
        }
        for run in runs {
            let end = place + run.length;
            if run.offset != place || run.length == 0 {
                return Err(format!("the map of {name} has {run:?} at {place}"));
            }
            match run.state {
                MapState::Data(hash) => {
                    let right = found.hashes.get(&place).unwrap_or(&zeros);
                    if hash != *right {
                        return Err(format!(
                            "image {name} at {place}: trusted hash {hash}, content has {right}"
                        ));
                    }
                    context.note(Count::HashesChecked);
                }
                MapState::Untrusted => {}
                MapState::Zero | MapState::Reserved => {
                    if let Some((offset, _)) = found.hashes.range(place..end).next() {
                        return Err(format!("image {name} has data at {offset}, not {run:?}"));
                    }
                }
            }
            place = end;
        }
    }
    Ok(())
}

//! Images: list, make, change, remove, and what they are made of.

use super::answer::{Body, Failure, InPath, InQuery};
use super::{Shared, blocking, describe, image_name};
use crate::daemon::Daemon;
use crate::daemon::lazy;
use crate::daemon::profiles;
use crate::daemon::storage::now_unix_s;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use blockyard_api::{
    CloneImage, CreateImage, DiffRun, ErrorBody, Image, ImageDiff, ImageDigest, ImageList,
    ImageMap, ImageProfile, ImageTree, ImageTreeNode, MapRun, OrderProfile, RenameImage,
    ResizeImage, SnapshotImage,
};
use blockyard_block::{EXTENT_SIZE, Error, ErrorKind, ImageName, Result};
use blockyard_pool::Relative;
use pollster::block_on;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::IntoParams;

/// Runs in one page of a map, at least; one more look-up may add 1024.
const MAP_PAGE_RUNS: usize = 8192;
/// Look-ups for one page at most, each of an extent (4 MiB): empty space takes next to no room.
const MAP_PAGE_LOOKUPS: usize = 4096;

/// All images, by name.
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = ImageList)))]
pub(super) async fn list(State(daemon): Shared) -> Result<Json<ImageList>, Failure> {
    let images = |daemon: &_| Ok(list_images(daemon));
    blocking(daemon, images).await.map(Json)
}

fn list_images(daemon: &std::sync::Arc<Daemon>) -> ImageList {
    let images = daemon.pool.images().into_iter();
    ImageList { images: images.map(|image| describe::image_of(daemon, image)).collect() }
}

/// All images under those that they share most with. Walks all maps.
#[utoipa::path(get, path = "/v1/tree", responses((status = 200, body = ImageTree)))]
pub(super) async fn tree(State(daemon): Shared) -> Result<Json<ImageTree>, Failure> {
    blocking(daemon, |daemon| Ok(image_tree(daemon))).await.map(Json)
}

/// An image that is removed meanwhile is left out; its children then have no parent.
fn image_tree(daemon: &Daemon) -> ImageTree {
    let family = daemon.pool.family();
    let mut images: BTreeMap<u64, Image> = BTreeMap::new();
    for image in daemon.pool.images() {
        images.insert(image.id.0, describe::image(image));
    }
    let node = |relative: &Relative| {
        let image = images.get(&relative.image.0)?;
        let sharing = daemon.pool.sharing(&ImageName::parse(&image.name).ok()?).ok()?;
        let parent = relative.parent.and_then(|parent| images.get(&parent.0));
        Some(ImageTreeNode {
            name: image.name.clone(),
            id: image.id,
            parent: parent.map(|parent| parent.name.clone()),
            bytes_in_common: relative.bytes_in_common,
            kind: image.kind,
            size_bytes: image.size_bytes,
            bytes_mapped: image.bytes_mapped,
            bytes_shared: sharing.bytes_shared,
            bytes_exclusive: sharing.bytes_exclusive,
            created_unix_s: image.created_unix_s,
        })
    };
    let mut nodes: Vec<ImageTreeNode> = family.iter().filter_map(node).collect();
    let there: BTreeSet<String> = nodes.iter().map(|node| node.name.clone()).collect();
    for node in &mut nodes {
        node.parent = node.parent.take().filter(|parent| there.contains(parent));
    }
    ImageTree { images: nodes }
}

/// Makes an empty image.
#[utoipa::path(post, path = "/v1/images", request_body = CreateImage, responses(
    (status = 201, body = Image),
    (status = "4XX", body = ErrorBody)))]
pub(super) async fn create(
    State(daemon): Shared,
    Body(request): Body<CreateImage>,
) -> Result<(StatusCode, Json<Image>), Failure> {
    let name = image_name(&request.name)?;
    let made = blocking(daemon, move |daemon| {
        block_on(daemon.pool.create_image(&name, request.size_bytes, now_unix_s()))?;
        find(daemon, &name)
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

/// One image and its clients.
#[utoipa::path(get, path = "/v1/images/{name}", params(("name" = String, Path)), responses(
    (status = 200, body = Image),
    (status = "4XX", body = ErrorBody)))]
pub(super) async fn get(
    State(daemon): Shared,
    InPath(name): InPath<String>,
) -> Result<Json<Image>, Failure> {
    let name = image_name(&name)?;
    let found = blocking(daemon, move |daemon| {
        let sharing = daemon.pool.sharing(&name)?;
        let (shared, exclusive) = (Some(sharing.bytes_shared), Some(sharing.bytes_exclusive));
        Ok(Image { bytes_shared: shared, bytes_exclusive: exclusive, ..find(daemon, &name)? })
    });
    found.await.map(Json)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Remove even while clients have the image open, or images of peers are filled from it; their requests fail from then on.
    #[serde(default)]
    force: bool,
}

/// Removes an image.
#[utoipa::path(delete, path = "/v1/images/{name}", params(("name" = String, Path), RemoveQuery),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(super) async fn remove(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<RemoveQuery>,
) -> Result<StatusCode, Failure> {
    let name = image_name(&name)?;
    blocking(daemon, move |daemon| remove_image(daemon, &name, query.force)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn remove_image(daemon: &Daemon, name: &ImageName, force: bool) -> Result<()> {
    let id = daemon.pool.image(name)?.id;
    if !force {
        daemon.dependants.check_none(id, name)?;
    }
    block_on(daemon.pool.remove_image(name, force))?;
    daemon.profiles.forget(id)?;
    daemon.dependants.forget_image(&daemon.pool, id)
}

/// Removes what is kept for an image of a peer that never comes back: what that lacks is lost to it.
#[utoipa::path(delete, path = "/v1/images/{name}/dependants/{id}",
    params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(super) async fn remove_dependant(
    State(daemon): Shared,
    InPath((name, id)): InPath<(String, String)>,
) -> Result<StatusCode, Failure> {
    let name = image_name(&name)?;
    let removed = blocking(daemon, move |daemon| {
        let image = daemon.pool.image(&name)?.id;
        daemon.dependants.remove(&daemon.pool, image, &id)
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where the image is read first, by a record that is being made or was kept.
#[utoipa::path(get, path = "/v1/images/{name}/profile", params(("name" = String, Path)),
    responses((status = 200, body = ImageProfile), (status = "4XX", body = ErrorBody)))]
pub(super) async fn profile(
    State(daemon): Shared,
    InPath(name): InPath<String>,
) -> Result<Json<ImageProfile>, Failure> {
    let name = image_name(&name)?;
    blocking(daemon, move |daemon| profiles::order(daemon, &name, None)).await.map(Json)
}

/// Begins, ends or forgets a record of where the image is read first. Pullers that use it before it is there
/// bring that first.
#[utoipa::path(post, path = "/v1/images/{name}/profile", params(("name" = String, Path)),
    request_body = OrderProfile,
    responses((status = 200, body = ImageProfile), (status = "4XX", body = ErrorBody)))]
pub(super) async fn order_profile(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<OrderProfile>,
) -> Result<Json<ImageProfile>, Failure> {
    let name = image_name(&name)?;
    let order = Some(request.order);
    blocking(daemon, move |daemon| profiles::order(daemon, &name, order)).await.map(Json)
}

/// Brings the rest of an image that is used before it is there, in the background.
#[utoipa::path(post, path = "/v1/images/{name}/fill", params(("name" = String, Path)), responses(
    (status = 200, body = Image), (status = "4XX", body = ErrorBody)))]
pub(super) async fn fill(
    State(daemon): Shared,
    InPath(name): InPath<String>,
) -> Result<Json<Image>, Failure> {
    let name = image_name(&name)?;
    let filled = blocking(daemon, move |daemon| {
        lazy::fill(daemon, daemon.pool.image(&name)?.id)?;
        find(daemon, &name)
    });
    filled.await.map(Json)
}

/// Gives an image another name.
#[utoipa::path(post, path = "/v1/images/{name}/rename", params(("name" = String, Path)),
    request_body = RenameImage,
    responses((status = 200, body = Image), (status = "4XX", body = ErrorBody)))]
pub(super) async fn rename(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<RenameImage>,
) -> Result<Json<Image>, Failure> {
    let (name, new_name) = (image_name(&name)?, image_name(&request.name)?);
    let renamed = blocking(daemon, move |daemon| {
        block_on(daemon.pool.rename_image(&name, &new_name, request.force))?;
        find(daemon, &new_name)
    });
    renamed.await.map(Json)
}

/// Grows or shrinks an image.
#[utoipa::path(post, path = "/v1/images/{name}/resize", params(("name" = String, Path)),
    request_body = ResizeImage,
    responses((status = 200, body = Image), (status = "4XX", body = ErrorBody)))]
pub(super) async fn resize(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<ResizeImage>,
) -> Result<Json<Image>, Failure> {
    let name = image_name(&name)?;
    let resized = blocking(daemon, move |daemon| {
        block_on(daemon.pool.resize_image(&name, request.size_bytes, request.force))?;
        find(daemon, &name)
    });
    resized.await.map(Json)
}

/// Keeps the content of this moment as a read-only image.
#[utoipa::path(post, path = "/v1/images/{name}/snapshot", params(("name" = String, Path)),
    request_body = SnapshotImage,
    responses((status = 201, body = Image), (status = "4XX", body = ErrorBody)))]
pub(super) async fn snapshot(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<SnapshotImage>,
) -> Result<(StatusCode, Json<Image>), Failure> {
    let (name, snapshot) = (image_name(&name)?, image_name(&request.name)?);
    let made = blocking(daemon, move |daemon| {
        block_on(daemon.pool.snapshot_image(&name, &snapshot, now_unix_s()))?;
        find(daemon, &snapshot)
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

/// Makes a writable image that starts with the content of another.
#[utoipa::path(post, path = "/v1/images/{name}/clone", params(("name" = String, Path)),
    request_body = CloneImage,
    responses((status = 201, body = Image), (status = "4XX", body = ErrorBody)))]
pub(super) async fn clone(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<CloneImage>,
) -> Result<(StatusCode, Json<Image>), Failure> {
    let (name, clone) = (image_name(&name)?, image_name(&request.name)?);
    let made = blocking(daemon, move |daemon| {
        block_on(daemon.pool.clone_image(&name, &clone, now_unix_s()))?;
        find(daemon, &clone)
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

/// The hash of an image's size and content. Reads no data.
#[utoipa::path(get, path = "/v1/images/{name}/digest", params(("name" = String, Path)), responses(
    (status = 200, body = ImageDigest),
    (status = "4XX", body = ErrorBody)))]
pub(super) async fn digest(
    State(daemon): Shared,
    InPath(name): InPath<String>,
) -> Result<Json<ImageDigest>, Failure> {
    let name = image_name(&name)?;
    let known = blocking(daemon, move |daemon| {
        let digest = block_on(daemon.pool.digest(&name))?.to_string();
        let hash = daemon.pool.status()?.hash.name().to_owned();
        Ok(ImageDigest { name: name.to_string(), digest, hash })
    });
    known.await.map(Json)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MapQuery {
    /// Where the page begins.
    #[serde(default)]
    offset: u64,
    /// One run per cluster of data, each with its hash.
    #[serde(default)]
    hashes: bool,
}

/// A page of what an image is made of. Reads no data.
///
/// Offsets are multiples of 4096, and so are lengths, but for the last run of an image whose size is
/// not: what lies beyond the end counts as zeros in its hash.
#[utoipa::path(get, path = "/v1/images/{name}/map", params(("name" = String, Path), MapQuery),
    responses((status = 200, body = ImageMap), (status = "4XX", body = ErrorBody)))]
pub(super) async fn map(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<MapQuery>,
) -> Result<Json<ImageMap>, Failure> {
    let name = image_name(&name)?;
    blocking(daemon, move |daemon| map_page(daemon, &name, &query)).await.map(Json)
}

fn map_page(daemon: &Daemon, name: &ImageName, query: &MapQuery) -> Result<ImageMap> {
    let size_bytes = daemon.pool.image(name)?.size_bytes;
    if query.offset > size_bytes {
        let message = format!("{name} ends at {size_bytes}");
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    let (mut offset, mut runs) = (query.offset, Vec::new());
    for _ in 0..MAP_PAGE_LOOKUPS {
        if offset >= size_bytes || runs.len() >= MAP_PAGE_RUNS {
            break;
        }
        let found = block_on(daemon.pool.map(name, offset, query.hashes))?;
        // An image that was shrunk meanwhile has nothing more to show.
        let end = found.last().map_or(offset, |last| last.offset.saturating_add(last.length));
        if end <= offset {
            return Ok(ImageMap { size_bytes, runs, next_offset: None });
        }
        offset = end;
        for run in &found {
            append(&mut runs, describe::map_run(run, query.hashes));
        }
    }
    Ok(ImageMap { size_bytes, runs, next_offset: (offset < size_bytes).then_some(offset) })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffQuery {
    /// Where the page begins.
    #[serde(default)]
    offset: u64,
}

/// A page of how an image differs from another. Reads no data.
#[utoipa::path(get, path = "/v1/images/{name}/diff/{other}",
    params(("name" = String, Path), ("other" = String, Path), DiffQuery),
    responses((status = 200, body = ImageDiff), (status = "4XX", body = ErrorBody)))]
pub(super) async fn diff(
    State(daemon): Shared,
    InPath((name, other)): InPath<(String, String)>,
    InQuery(query): InQuery<DiffQuery>,
) -> Result<Json<ImageDiff>, Failure> {
    let (name, other) = (image_name(&name)?, image_name(&other)?);
    blocking(daemon, move |daemon| diff_page(daemon, &name, &other, query.offset)).await.map(Json)
}

fn diff_page(daemon: &Daemon, name: &ImageName, other: &ImageName, from: u64) -> Result<ImageDiff> {
    let size_bytes = daemon.pool.image(name)?.size_bytes;
    let other_size_bytes = daemon.pool.image(other)?.size_bytes;
    let end = size_bytes.max(other_size_bytes);
    let mut runs: Vec<DiffRun> = Vec::new();
    let mut offset = from / EXTENT_SIZE * EXTENT_SIZE;
    for _ in 0..MAP_PAGE_LOOKUPS {
        if offset >= end || runs.len() >= MAP_PAGE_RUNS {
            break;
        }
        for run in block_on(daemon.pool.diff(name, other, offset))? {
            let run = describe::diff_run(&run);
            match runs.last_mut() {
                Some(last)
                    if last.state == run.state && last.offset + last.length == run.offset =>
                {
                    last.length += run.length;
                }
                _ => runs.push(run),
            }
        }
        offset += EXTENT_SIZE;
    }
    let next_offset = (offset < end).then_some(offset);
    Ok(ImageDiff { size_bytes, other_size_bytes, runs, next_offset })
}

/// Adds a run, as part of the last one if nothing tells them apart.
fn append(runs: &mut Vec<MapRun>, run: MapRun) {
    match runs.last_mut() {
        Some(last) if last.state == run.state && last.hash.is_none() && run.hash.is_none() => {
            last.length += run.length;
        }
        _ => runs.push(run),
    }
}

/// The image as it is now.
pub(super) fn find(daemon: &Daemon, name: &ImageName) -> Result<Image> {
    daemon.pool.image(name).map(|image| describe::image_of(daemon, image))
}

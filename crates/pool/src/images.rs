//! Images: making, importing, removing, renaming, resizing, snapshots and clones. Each answers when its
//! change is durable; cut off before, it has not happened.

use crate::extent::Slot;
use crate::lazy::LazyState;
use crate::pool::{Pool, Turn};
use crate::records::{IMAGE_SIZE_MAX, ImageRecord, pages_for};
use crate::state::{State, Sweep};
use crate::types::{Client, ImageInfo, ImageKind};
use crate::volume::Volume;
use blockyard_block::{
    CLUSTER_SIZE, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind, ImageId, ImageName,
    MAP_PAGE_EXTENTS, MapPageId, Result, SECTOR_SIZE,
};
use blockyard_io::Directory;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The range of a change that concerns the whole image.
const WHOLE_IMAGE: std::ops::Range<u64> = 0..u64::MAX;

impl<D: Directory> Pool<D> {
    /// A new image that reads zero. `size` is a multiple of 512.
    pub async fn create_image(
        &self,
        name: &ImageName,
        size: u64,
        now_unix_s: u64,
    ) -> Result<ImageId> {
        let record = new_record(name, size, now_unix_s)?;
        let id = self.insert(record).await?;
        self.commit_now().await?;
        Ok(id)
    }

    async fn insert(&self, record: ImageRecord) -> Result<ImageId> {
        let mut state = self.lock_with_room(2 * record.encoded_length() + 64).await?;
        state.check_free(&record.name)?;
        let id = state.new_image_id();
        state.insert_image(id, record);
        state.seal();
        self.wake_wanted(state);
        Ok(id)
    }

    /// A hidden image, not listed and gone after a crash, until [`Pool::reveal_import`]. Write to
    /// the volume, then reveal it; dropping the volume unrevealed removes it.
    pub async fn begin_import(
        self: &Arc<Self>,
        name: &ImageName,
        size: u64,
        now_unix_s: u64,
    ) -> Result<Volume<D>> {
        self.begin_hidden(name, size, false, now_unix_s).await
    }

    /// The same; a `kept` one is there after a crash, too, and hidden still.
    pub(crate) async fn begin_hidden(
        self: &Arc<Self>,
        name: &ImageName,
        size: u64,
        kept: bool,
        now_unix_s: u64,
    ) -> Result<Volume<D>> {
        let mut record = new_record(name, size, now_unix_s)?;
        record.hidden = true;
        record.kept = kept;
        let id = self.insert(record).await?;
        let client = Client {
            connection: 0,
            pid: None,
            uid: None,
            writes: true,
            purpose: "import".to_owned(),
        };
        self.open_volume(id, client)
    }

    /// Makes everything written durable and the image visible in one step. `Exists` if the name was
    /// taken meanwhile.
    pub async fn reveal_import(&self, volume: Volume<D>) -> Result<ImageId> {
        self.reveal(volume, None).await
    }

    /// The same; a lazy image shows with what is absent of it.
    pub(crate) async fn reveal(
        &self,
        volume: Volume<D>,
        lazy: Option<Box<LazyState>>,
    ) -> Result<ImageId> {
        let id = volume.image();
        {
            let _turn = self.take_turn(id, WHOLE_IMAGE).await?;
            let mut state = self.lock_with_room(2 * self.record_length(id)? + 64).await?;
            let name = state.image(id)?.record.name.clone();
            state.check_free(&name)?;
            let record = &mut state.image_mut(id)?.record;
            (record.hidden, record.kept) = (false, false);
            record.lazy = lazy.is_some();
            state.image_mut(id)?.lazy = lazy;
            state.names.insert(name, id);
            state.touch(crate::records::RecordKey::Image(id));
            state.seal();
            self.wake_wanted(state);
        }
        drop(volume);
        self.commit_now().await?;
        Ok(id)
    }

    /// Returns when all that is visible now is durable.
    pub async fn make_durable(&self) -> Result<()> {
        self.commit_now().await
    }

    fn record_length(&self, id: ImageId) -> Result<usize> {
        Ok(self.lock().image(id)?.record.encoded_length())
    }

    /// `Busy` while clients exist unless `force`; forced, their requests fail from now on. Its space is
    /// given back in the background.
    pub async fn remove_image(&self, name: &ImageName, force: bool) -> Result<()> {
        let (_turn, id) = self.whole_image(name, force, "removed").await?;
        {
            let mut state = self.lock_with_room(64).await?;
            if state.find(name)? != id {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{name} was renamed meanwhile"),
                ));
            }
            state.check_unused(id, force, "removed")?;
            state.remove_image(id);
            state.seal();
            self.wake_wanted(state);
        }
        self.fetched_event.notify(usize::MAX);
        self.demand_event.notify(usize::MAX);
        self.commit_now().await?;
        self.remove_list(id).await;
        Ok(())
    }

    /// Finds an image and waits until no change of it is in flight.
    async fn whole_image(
        &self,
        name: &ImageName,
        force: bool,
        what: &str,
    ) -> Result<(Turn<'_, D>, ImageId)> {
        let id = {
            let state = self.lock();
            let id = state.find(name)?;
            state.check_unused(id, force, what)?;
            id
        };
        Ok((self.take_turn(id, WHOLE_IMAGE).await?, id))
    }

    /// `Busy` while clients exist unless `force`.
    pub async fn rename_image(&self, name: &ImageName, new: &ImageName, force: bool) -> Result<()> {
        {
            let id = self.lock().find(name)?;
            let mut state = self.lock_with_room(2 * self.record_length(id)? + 512).await?;
            state.check_unused(id, force, "renamed")?;
            if state.find(name)? != id {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{name} was renamed meanwhile"),
                ));
            }
            state.check_free(new)?;
            state.names.remove(name);
            state.names.insert(new.clone(), id);
            state.image_mut(id)?.record.name = new.clone();
            state.touch(crate::records::RecordKey::Image(id));
            state.seal();
            self.wake_wanted(state);
        }
        self.commit_now().await
    }

    /// Growing is always allowed; shrinking is `Busy` while clients exist unless `force`. What is cut
    /// off is gone: after growing again it reads zero (I11).
    pub async fn resize_image(&self, name: &ImageName, size: u64, force: bool) -> Result<()> {
        check_image_size(size)?;
        let (id, old) = {
            let mut state = self.lock();
            let id = state.find(name)?;
            let image = state.image(id)?;
            if image.record.kind == ImageKind::Snapshot {
                return Err(Error::new(
                    ErrorKind::ReadOnly,
                    format!("{name} is a snapshot: its size is fixed"),
                ));
            }
            if image.shrinking_to.is_some() {
                return Err(Error::new(ErrorKind::Busy, format!("{name} is being resized")));
            }
            let old = image.record.size;
            if size < old {
                state.check_not_lazy(id, "shrunk")?;
                state.check_unused(id, force, "shrunk")?;
                state.image_mut(id)?.shrinking_to = Some(size);
            }
            (id, old)
        };
        if size < old {
            let _shrinking = Shrinking { pool: self, id };
            self.shrink(id, size).await?;
        } else {
            let pages = 2 * (self.record_length(id)? + 8 * pages_for(size));
            let mut state = self.lock_with_room(pages + 64).await?;
            if state.image(id)?.record.size > size || state.image(id)?.shrinking_to.is_some() {
                return Err(Error::new(ErrorKind::Busy, format!("{name} is being resized")));
            }
            state.set_size(id, size)?;
            state.seal();
            self.wake_wanted(state);
        }
        self.commit_now().await
    }

    /// The size, the map beyond it and the cluster that it cuts change in one transaction: a crash
    /// leaves the image as it was or cut (I11). Writes beyond the new end are refused meanwhile.
    async fn shrink(&self, id: ImageId, size: u64) -> Result<()> {
        loop {
            let turn = self.take_turn(id, WHOLE_IMAGE).await?;
            match self.cut_image(id, size).await? {
                Ok(()) => return Ok(()),
                Err(seen) => {
                    drop(turn);
                    self.wait_for_progress(seen).await;
                }
            }
        }
    }

    /// A read-only image of the content at this moment.
    pub async fn snapshot_image(
        &self,
        source: &ImageName,
        name: &ImageName,
        now_unix_s: u64,
    ) -> Result<ImageId> {
        self.share(source, name, ImageKind::Snapshot, now_unix_s).await
    }

    /// A writable image that starts with the content of `source` (an image or a snapshot).
    pub async fn clone_image(
        &self,
        source: &ImageName,
        name: &ImageName,
        now_unix_s: u64,
    ) -> Result<ImageId> {
        self.share(source, name, ImageKind::Writable, now_unix_s).await
    }

    /// A read-only image of the content at this moment that nobody else sees and that is gone when the volume
    /// is dropped. After a crash it is gone, too, unless it is `kept`: then it is one of [`Pool::left_images`].
    /// Later writes and a removal of `source` do not change it.
    pub async fn hold_snapshot(
        self: &Arc<Self>,
        source: &ImageName,
        kept: bool,
        now_unix_s: u64,
    ) -> Result<Volume<D>> {
        let source_id = self.lock().find(source)?;
        let kind = ImageKind::Snapshot;
        let id = self.share_as(source_id, source, kind, true, kept, now_unix_s).await?;
        self.open_volume(id, of_transfer(false))
    }

    /// The barrier is the turn for the whole image: submitted changes drain, later ones wait until the
    /// pages are held, then go on, copying. The commit, with its sync of the data, comes after.
    async fn share(
        &self,
        source: &ImageName,
        name: &ImageName,
        kind: ImageKind,
        now_unix_s: u64,
    ) -> Result<ImageId> {
        let source_id = self.lock().find(source)?;
        let id = self.share_as(source_id, name, kind, false, false, now_unix_s).await?;
        self.commit_now().await?;
        Ok(id)
    }

    async fn share_as(
        &self,
        source_id: ImageId,
        name: &ImageName,
        kind: ImageKind,
        hidden: bool,
        kept: bool,
        now_unix_s: u64,
    ) -> Result<ImageId> {
        let room = 2 * self.record_length(source_id)? + 512;
        let _turn = self.take_turn(source_id, WHOLE_IMAGE).await?;
        let mut state = self.lock_with_room(room).await?;
        state.check_not_lazy(source_id, "a source of others")?;
        if !hidden {
            state.check_free(name)?;
        }
        let record = ImageRecord {
            name: name.clone(),
            kind,
            hidden,
            kept,
            created_unix_s: now_unix_s,
            ..state.image(source_id)?.record.clone()
        };
        let id = state.new_image_id();
        state.insert_image(id, record);
        state.seal();
        self.wake_wanted(state);
        Ok(id)
    }

    /// All visible images by name.
    pub fn images(&self) -> Vec<ImageInfo> {
        let mut images: Vec<ImageInfo> = {
            let state = self.lock();
            state.names.values().filter_map(|id| state.describe(*id)).collect()
        };
        for image in &mut images {
            image.bytes_mapped = self.bytes_mapped(image.id);
        }
        images
    }

    /// One image by name.
    pub fn image(&self, name: &ImageName) -> Result<ImageInfo> {
        let described = {
            let state = self.lock();
            state.describe(state.find(name)?)
        };
        let removed = || Error::new(ErrorKind::NotFound, "the image was removed");
        let mut image = described.ok_or_else(removed)?;
        image.bytes_mapped = self.bytes_mapped(image.id);
        Ok(image)
    }

    /// Clusters the image maps x 4096, counted map page by map page, so that requests go on.
    pub(crate) fn bytes_mapped(&self, id: ImageId) -> u64 {
        let pages = match self.lock().image(id) {
            Ok(image) => image.record.pages.clone(),
            Err(_) => return 0,
        };
        let clusters: u64 =
            pages.into_iter().flatten().map(|page| self.lock().clusters_of_page(page)).sum();
        clusters * CLUSTER_SIZE as u64
    }

    /// Opens an image for a client. `ReadOnly` for `client.writes` on a snapshot.
    pub fn open_image(self: &Arc<Self>, name: &ImageName, client: Client) -> Result<Volume<D>> {
        let id = self.lock().find(name)?;
        self.open_volume(id, client)
    }

    pub(crate) fn open_volume(self: &Arc<Self>, id: ImageId, client: Client) -> Result<Volume<D>> {
        let mut state = self.lock();
        let image = state.image_mut(id)?;
        if client.writes && image.record.kind == ImageKind::Snapshot {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!("{} is a snapshot: open it read-only, or clone it", image.record.name),
            ));
        }
        image.clients.push(client.clone());
        let size = Arc::clone(&image.size);
        drop(state);
        Ok(Volume::new(Arc::clone(self), id, client, size))
    }
}

/// Whoever holds an image for a transfer.
pub(crate) fn of_transfer(writes: bool) -> Client {
    Client { connection: 0, pid: None, uid: None, writes, purpose: "transfer".to_owned() }
}

/// Marks an image as being shrunk until dropped.
struct Shrinking<'a, D: Directory> {
    pool: &'a Pool<D>,
    id: ImageId,
}

impl<D: Directory> Drop for Shrinking<'_, D> {
    fn drop(&mut self) {
        if let Ok(image) = self.pool.lock().image_mut(self.id) {
            image.shrinking_to = None;
        }
    }
}

/// `InvalidArgument` unless an image may have so many bytes.
pub fn check_image_size(size: u64) -> Result<()> {
    if size == 0 || size > IMAGE_SIZE_MAX || !size.is_multiple_of(SECTOR_SIZE) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "an image of {size} bytes: sizes are multiples of 512, from 512 to {IMAGE_SIZE_MAX} (64 TiB)"
            ),
        ));
    }
    Ok(())
}

fn new_record(name: &ImageName, size: u64, created_unix_s: u64) -> Result<ImageRecord> {
    check_image_size(size)?;
    Ok(ImageRecord {
        name: name.clone(),
        kind: ImageKind::Writable,
        hidden: false,
        kept: false,
        lazy: false,
        size,
        created_unix_s,
        pages: vec![None; pages_for(size)],
    })
}

impl State {
    fn check_free(&self, name: &ImageName) -> Result<()> {
        match self.names.contains_key(name) {
            true => Err(Error::new(
                ErrorKind::Exists,
                format!("there is an image called {name} already"),
            )),
            false => Ok(()),
        }
    }

    fn check_unused(&self, id: ImageId, force: bool, what: &str) -> Result<()> {
        let image = self.image(id)?;
        let clients = match image.clients.len() {
            _ if force => return Ok(()),
            0 => return Ok(()),
            1 => format!("1 client and cannot be {what}: disconnect it"),
            count => format!("{count} clients and cannot be {what}: disconnect them"),
        };
        let message = format!("{} has {clients}, or use --force", image.record.name);
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Changes the size; pages beyond the new end are swept once that is durable.
    fn set_size(&mut self, id: ImageId, size: u64) -> Result<()> {
        let generation = self.generation;
        let image = self.image_mut(id)?;
        image.record.size = size;
        image.size.store(size, Ordering::Release);
        let cut: Vec<_> =
            image.record.pages.drain(pages_for(size).min(image.record.pages.len())..).collect();
        image.record.pages.resize(pages_for(size), None);
        for page in cut.into_iter().flatten() {
            self.sweeps.push_back((generation, Sweep::Page(page)));
        }
        self.touch(crate::records::RecordKey::Image(id));
        Ok(())
    }

    /// Takes everything beyond a size out of an image and sets the size. What a cluster that the
    /// new end cuts holds beyond it is the caller's business. Whole extents are swept later.
    pub(crate) fn cut_map(&mut self, id: ImageId, size: u64) -> Result<()> {
        let clusters = size.div_ceil(CLUSTER_SIZE as u64);
        let (index, slot) = (clusters / EXTENT_CLUSTERS as u64, clusters % EXTENT_CLUSTERS as u64);
        if slot > 0 && self.extent_at(&self.image(id)?.record, index).is_some() {
            let extent = self.own_extent(id, index);
            for slot in slot as usize..EXTENT_CLUSTERS {
                self.set_slot((id, extent, slot), Slot::Zero);
            }
        }
        self.drop_extents_from(id, clusters.div_ceil(EXTENT_CLUSTERS as u64));
        self.set_size(id, size)
    }

    fn clusters_of_page(&self, page: MapPageId) -> u64 {
        let Some(page) = self.pages.get(&page) else { return 0 };
        page.page.iter().map(|(_, id)| self.extents[&id].extent.cluster_count() as u64).sum()
    }

    /// All but what the image maps, which takes a walk.
    fn describe(&self, id: ImageId) -> Option<ImageInfo> {
        let image = self.images.get(&id)?;
        Some(ImageInfo {
            id,
            name: image.record.name.clone(),
            kind: image.record.kind,
            size_bytes: image.record.size,
            bytes_mapped: 0,
            created_unix_s: image.record.created_unix_s,
            clients: image.clients.clone(),
        })
    }
}

const _: () = assert!(EXTENT_SIZE * MAP_PAGE_EXTENTS as u64 == 2 << 30);

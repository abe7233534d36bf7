//! Lists of lazy images when a pool is opened, and when an image is first shown.

use super::{LazyState, manifest};
use crate::pool::Pool;
use blockyard_block::{Error, ImageId};
use blockyard_io::Directory;
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

/// The open lists, by image.
pub(crate) type Disks<K> = BTreeMap<ImageId, Arc<K>>;

/// Reads all of a list.
pub(crate) async fn check_list<D: Directory>(directory: &D, id: ImageId) -> Result<(), Error> {
    let opened = directory.open(&manifest::path(id)).await;
    let disk = opened.map_err(|error| Error::io("the list of what is missing", error))?;
    for extent in manifest::load(&disk, id).await?.extents {
        manifest::hashes(&disk, &extent).await?;
    }
    Ok(())
}

impl<D: Directory> Pool<D> {
    pub(crate) fn lazy_disks(&self) -> MutexGuard<'_, Disks<D::Disk>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the lists of all lazy images, before anything is served, and removes those of images that are lazy no
    /// more. An image whose list cannot be read serves what is present.
    pub(crate) async fn load_lists(&self) {
        let lazy: Vec<ImageId> = {
            let state = self.lock();
            let lazy = state.images.iter().filter(|(_, image)| image.record.lazy);
            lazy.map(|(id, _)| *id).collect()
        };
        let named: Vec<String> = lazy.iter().map(|id| manifest::path(*id)).collect();
        for file in self.directory.list(manifest::FOLDER).await.unwrap_or_default() {
            let path = format!("{}/{file}", manifest::FOLDER);
            if !named.contains(&path) {
                // Tried again at the next open.
                let _ = self.directory.remove(&path).await;
            }
        }
        for id in lazy {
            // Once more: what fails now may succeed.
            let loaded = match self.load_list(id).await {
                Err(_) => self.load_list(id).await,
                loaded => loaded,
            };
            let state = match loaded {
                Ok(state) => state,
                Err(error) => LazyState::broken(error.to_string()),
            };
            if let Some(image) = self.lock().images.get_mut(&id) {
                image.lazy = Some(Box::new(state));
            }
        }
    }

    async fn load_list(&self, id: ImageId) -> Result<LazyState, Error> {
        let opened = self.directory.open(&manifest::path(id)).await;
        let disk = opened.map_err(|error| Error::io("the list of what is missing", error))?;
        let contents = manifest::load(&disk, id).await?;
        self.lazy_disks().insert(id, Arc::new(disk));
        Ok(LazyState::new(contents, self.lock().now_ms))
    }
}

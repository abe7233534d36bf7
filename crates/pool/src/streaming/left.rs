//! What transfers leave behind on purpose: hidden images that are kept over a cut and over a crash, so that a
//! transfer which is asked for again finds in the pool what arrived. They are found by their hashes like any
//! content and by nothing else; nobody opens them but [`Pool::take_up_snapshot`].
//!
//! An image that is left takes space and is promised to nobody: the caller drops those that are old, or in the
//! way.

use crate::images::of_transfer;
use crate::pool::Pool;
use crate::state::State;
use crate::types::ImageKind;
use crate::volume::Volume;
use blockyard_block::{Error, ErrorKind, ImageId, ImageName, Result};
use blockyard_io::Directory;
use std::sync::Arc;

/// Names of images that were given up lately are remembered: as many.
const GIVEN_UP_MAX: usize = 256;

/// Parts of received images that are left at a time; then the oldest goes.
const LEFT_MAX: usize = 16;

/// A hidden image that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftImage {
    pub id: ImageId,
    /// What it shall be called, or what the image it was taken of was called.
    pub name: ImageName,
    /// A snapshot that is sent; else what was received of an image.
    pub kind: ImageKind,
    /// Seconds since 1970; 0 for what a former run left and nobody has looked at in this one.
    pub since_unix_s: u64,
}

impl<D: Directory> Volume<D> {
    /// Closes a kept hidden image without removing it.
    pub fn leave(self, now_unix_s: u64) {
        let mut state = self.pool().lock();
        state.leave_image(self.id(), now_unix_s);
        state.seal();
        self.pool().wake_wanted(state);
    }
}

impl<D: Directory> Pool<D> {
    /// Those that are left, by id.
    pub fn left_images(&self) -> Vec<LeftImage> {
        self.lock().left_images()
    }

    /// Opens a snapshot that was left; `NotFound` if it is not there.
    pub fn take_up_snapshot(self: &Arc<Self>, id: ImageId) -> Result<Volume<D>> {
        {
            let mut state = self.lock();
            let found = state.images.get_mut(&id);
            let left = found.filter(|image| {
                image.record.kind == ImageKind::Snapshot && image.left_unix_s.is_some()
            });
            let missing = || Error::new(ErrorKind::NotFound, "the snapshot being sent is gone");
            left.ok_or_else(missing)?.left_unix_s = None;
        }
        self.open_volume(id, of_transfer(false))
    }

    /// Opens a snapshot that was left, and leaves it: closing it removes nothing. `NotFound` if it is not there.
    pub fn open_left_snapshot(self: &Arc<Self>, id: ImageId) -> Result<Volume<D>> {
        let is_left = |left: &LeftImage| left.id == id && left.kind == ImageKind::Snapshot;
        if !self.left_images().iter().any(is_left) {
            return Err(Error::new(ErrorKind::NotFound, "the snapshot being sent is gone"));
        }
        self.open_volume(id, of_transfer(false))
    }

    /// Removes those that `unwanted` names. The others are noted to be left since now, if that was unknown.
    pub fn remove_left(&self, now_unix_s: u64, unwanted: impl Fn(&LeftImage) -> bool) {
        let mut state = self.lock();
        for left in state.left_images() {
            match state.images.get_mut(&left.id) {
                _ if unwanted(&left) => state.remove_image(left.id),
                Some(image) if left.since_unix_s == 0 => image.left_unix_s = Some(now_unix_s),
                _ => {}
            }
        }
        state.seal();
        self.wake_wanted(state);
    }

    /// Whether something of an image of this name was received before.
    pub(super) fn has_left(&self, name: &ImageName) -> bool {
        let is_part = |left: LeftImage| left.kind == ImageKind::Writable && left.name == *name;
        self.left_images().into_iter().any(is_part)
    }

    /// An image of this name does not come: removes what was received of it. What is still being received is not
    /// left behind when it is cut off.
    pub fn give_up_parts(&self, name: &ImageName) {
        {
            let mut state = self.lock();
            state.note_given_up(name);
            state.keep_no_open_part(name);
        }
        self.remove_parts(name);
    }

    /// How often parts were given up.
    pub fn parts_given_up(&self) -> u64 {
        self.lock().given_up
    }

    /// If an image of this name was given up since parts had been given up so often, what is being received of one is not
    /// left behind when it is cut off: perhaps it was asked for before that.
    pub fn keep_no_part_given_up_since(&self, given_up: u64, name: &ImageName) {
        let mut state = self.lock();
        if state.names_given_up.iter().any(|(other, number)| other == name && *number > given_up) {
            state.keep_no_open_part(name);
        }
    }

    /// Removes what was received before of an image of this name.
    pub fn remove_parts(&self, name: &ImageName) {
        self.remove_left(0, |left| left.kind == ImageKind::Writable && left.name == *name);
    }
}

impl State {
    fn left_images(&self) -> Vec<LeftImage> {
        let described = self.images.iter().filter_map(|(id, image)| {
            Some(LeftImage {
                id: *id,
                name: image.record.name.clone(),
                kind: image.record.kind,
                since_unix_s: image.left_unix_s?,
            })
        });
        described.collect()
    }

    fn note_given_up(&mut self, name: &ImageName) {
        self.given_up += 1;
        self.names_given_up.push_back((name.clone(), self.given_up));
        if self.names_given_up.len() > GIVEN_UP_MAX {
            self.names_given_up.pop_front();
        }
    }

    /// Only in memory: after a crash it is a part like others.
    fn keep_no_open_part(&mut self, name: &ImageName) {
        for image in self.images.values_mut() {
            let record = &mut image.record;
            if record.hidden && record.kind == ImageKind::Writable && record.name == *name {
                record.kept &= image.left_unix_s.is_some();
            }
        }
    }

    fn leave_image(&mut self, id: ImageId, now_unix_s: u64) {
        let Ok(image) = self.image_mut(id) else { return };
        if !(image.record.hidden && image.record.kept) {
            return;
        }
        image.left_unix_s = Some(now_unix_s);
        let mut parts = self.left_images();
        parts.retain(|left| left.kind == ImageKind::Writable);
        parts.sort_by_key(|left| left.since_unix_s);
        for oldest in parts.iter().take(parts.len().saturating_sub(LEFT_MAX)) {
            self.remove_image(oldest.id);
        }
    }
}

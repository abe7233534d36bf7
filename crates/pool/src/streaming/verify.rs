//! What was taken by its hash alone is read and compared before anybody is told that the image is there (I9). What is
//! not what it should be is given up here, and asked for; who else uses it learns of it from a scrub.

use super::ExtentHashes;
use super::receive::Receive;
use crate::extent::Slot;
use crate::plan::Content;
use crate::pool::Pool;
use crate::reclaim::users::User;
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind, ImageId, Result,
    Segment,
};
use blockyard_io::Directory;

/// Clusters read at once: 1 MiB.
const RUN_CLUSTERS: usize = 256;
const HASH_BYTES: usize = 32;

impl<D: Directory> Receive<D> {
    /// Compares all that the image has of an extent.
    pub(super) async fn verify(&mut self, index: u64, expected: &ExtentHashes) -> Result<()> {
        let slots = self.pool.data_slots(self.volume.id(), index)?;
        for run in slots.chunk_by(|one, next| one + 1 == *next) {
            for run in run.chunks(RUN_CLUSTERS) {
                let mut differing = self.differing(index, run, expected).await;
                if differing.len() == run.len() && run.len() > 1 {
                    // One that cannot be read hides the others.
                    differing.clear();
                    for slot in run {
                        differing.extend(self.differing(index, &[*slot], expected).await);
                    }
                }
                self.verified += run.len() as u64;
                self.damaged += differing.len() as u64;
                for slot in differing {
                    let offset = place_of(index, slot);
                    let (image, length) = (self.volume.id(), CLUSTER_SIZE as u64);
                    self.pool.clear_image(image, offset, length, Content::Hole).await?;
                }
            }
        }
        Ok(())
    }

    /// The hashes of an extent that was taken whole, by its summary. Where the hash table is damaged they are those of its data, if
    /// these have the summary.
    pub(super) async fn hashes_of_whole(&self, index: u64) -> Result<ExtentHashes> {
        let damaged = match self.volume.extent_hashes(index).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            told => return told,
        };
        let known = self.volume.extent_summaries(index, 1).await?;
        let read = self.hashes_of_data(index).await?;
        match known.first() {
            Some((at, summary))
                if *at == index && read.summary(self.pool.hash_algorithm()) == *summary =>
            {
                Ok(read)
            }
            _ => Err(damaged),
        }
    }

    async fn hashes_of_data(&self, index: u64) -> Result<ExtentHashes> {
        let mut bytes = vec![0; ExtentHashes::BYTES];
        let slots = self.pool.data_slots(self.volume.id(), index)?;
        for run in slots.chunk_by(|one, next| one + 1 == *next) {
            for run in run.chunks(RUN_CLUSTERS) {
                let data = self.read_run(index, run).await?;
                for (slot, hash) in run.iter().zip(self.pool.hashes_of(&data)) {
                    bytes[slot * HASH_BYTES..][..HASH_BYTES].copy_from_slice(&hash.0);
                }
            }
        }
        let lost = || Error::new(ErrorKind::Corrupt, "an extent has too many slots");
        ExtentHashes::from_bytes(bytes).ok_or_else(lost)
    }

    /// Those of consecutive slots whose bytes do not have their hash; all of them if they cannot be read.
    async fn differing(&self, index: u64, run: &[usize], expected: &ExtentHashes) -> Vec<usize> {
        let Ok(bytes) = self.read_run(index, run).await else { return run.to_vec() };
        let hashes = self.pool.hashes_of(&bytes);
        let told = run.iter().zip(hashes);
        let differs = told.filter(|(slot, hash)| expected.get(**slot) != Some(*hash));
        differs.map(|(slot, _)| *slot).collect()
    }

    /// The bytes of consecutive slots.
    async fn read_run(&self, index: u64, run: &[usize]) -> Result<Vec<u8>> {
        let Some(first) = run.first() else { return Ok(Vec::new()) };
        let (offset, length) = (place_of(index, *first), run.len() * CLUSTER_SIZE);
        let mut bytes = Vec::with_capacity(length);
        for segment in self.pool.read_image(self.volume.id(), offset, length as u64).await? {
            match segment {
                Segment::Data(data) => bytes.extend_from_slice(&data),
                Segment::Zeroes(count) => bytes.resize(bytes.len() + count as usize, 0),
            }
        }
        Ok(bytes)
    }
}

fn place_of(index: u64, slot: usize) -> u64 {
    index * EXTENT_SIZE + (slot * CLUSTER_SIZE) as u64
}

impl<D: Directory> Pool<D> {
    /// Slots of an image's extent that hold data.
    pub(super) fn data_slots(&self, image: ImageId, index: u64) -> Result<Vec<usize>> {
        let state = self.lock();
        let Some(id) = state.extent_at(&state.image(image)?.record, index) else {
            return Ok(Vec::new());
        };
        let runs = state.extents[&id].extent.runs();
        let data = runs.filter(|(_, _, target)| matches!(target, Slot::Data(_)));
        Ok(data.flat_map(|(slot, length, _)| slot..slot + length).collect())
    }

    /// The cluster that an image shows at a place, which is counted in clusters, and where it shows it.
    pub(super) fn shown_at(&self, image: ImageId, place: u64) -> Option<(User, ClusterIndex)> {
        let state = self.lock();
        let record = &state.image(image).ok()?.record;
        let extent = state.extent_at(record, place / EXTENT_CLUSTERS as u64)?;
        let slot = (place % EXTENT_CLUSTERS as u64) as usize;
        match state.extents[&extent].extent.slot(slot) {
            Slot::Data(cluster) => Some((User { extent, slot }, cluster)),
            Slot::Zero | Slot::Reserved(_) => None,
        }
    }
}

//! What a seed draws before it starts: how large, how full, how fast and how faulty its world is.

use crate::SimWorld;
use blockyard_block::{CLUSTER_SIZE, EXTENT_SIZE, HashAlgorithm};
use blockyard_pool::{CreateOptions, OpenOptions, PoolId};

/// The frame of one run.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// Requests and changes of all clients together, at least this many.
    pub(crate) operations: u64,
    pub(crate) crashes: u64,
    pub(crate) clients: u64,
    pub(crate) images: u64,
    pub(crate) image_size_max: u64,
    /// Of 100 periods between crashes, this many have failures injected.
    pub(crate) fault_percent: u64,
    /// Bytes of clusters the pool may allocate.
    pub(crate) capacity_bytes: Option<u64>,
    /// Bytes the pool's file system has.
    pub(crate) disk_bytes: Option<u64>,
    /// Some requests are dropped half way, as when a client disconnects.
    pub(crate) clients_give_up: bool,
    pub(crate) log_segment_bytes: u64,
    pub(crate) log_segments: u32,
    pub(crate) hash: HashAlgorithm,
    pub(crate) region_cool_ms: u64,
    pub(crate) commit_interval_ms: u64,
    pub(crate) sort_records_max: usize,
    /// Of the writes, one in so many writes what others wrote already; and reclaim is asked for.
    pub(crate) one_in_equal: u64,
    pub(crate) punch_keep_regions: usize,
    pub(crate) pending_hashes_bytes_max: u64,
    /// One in this many steps, time moves on.
    pub(crate) steps_per_tick: u64,
}

impl Scenario {
    pub(crate) fn draw(world: &SimWorld) -> Scenario {
        let below = |bound| world.random_below(bound);
        let pick = |choices: &[u64]| choices[below(choices.len() as u64) as usize];
        Scenario {
            operations: 300 + below(100),
            crashes: 2 + below(3),
            clients: 2 + below(4),
            images: 3 + below(3),
            image_size_max: pick(&[1, 3, 5, 9]) * EXTENT_SIZE / 2,
            fault_percent: pick(&[0, 30, 60]),
            capacity_bytes: (below(3) == 0).then(|| (150 + below(1500)) * CLUSTER_SIZE as u64),
            disk_bytes: (below(4) == 0).then(|| (10 + below(20)) * EXTENT_SIZE / 2),
            clients_give_up: below(3) == 0,
            log_segment_bytes: pick(&[48, 64]) * CLUSTER_SIZE as u64,
            log_segments: 4,
            hash: match below(8) {
                0 => HashAlgorithm::Sha256,
                1 => HashAlgorithm::Sha1,
                _ => HashAlgorithm::Blake3,
            },
            region_cool_ms: pick(&[1, 50, 500, 2_000]),
            commit_interval_ms: pick(&[50, 500, 5_000]),
            sort_records_max: pick(&[50, 400, 10_000]) as usize,
            one_in_equal: pick(&[2, 6, 1_000]),
            punch_keep_regions: pick(&[0, 1, 4]) as usize,
            pending_hashes_bytes_max: pick(&[64 << 10, 96 << 20]),
            steps_per_tick: pick(&[5, 50, 500]),
        }
    }

    /// Small images and pools with room: what is attacked is elsewhere.
    pub(crate) fn for_transfers(self) -> Scenario {
        Scenario {
            image_size_max: self.image_size_max.min(5 * EXTENT_SIZE / 2),
            capacity_bytes: None,
            disk_bytes: None,
            one_in_equal: self.one_in_equal.min(6),
            ..self
        }
    }

    /// The pace of another machine.
    pub(crate) fn draw_pace(&mut self, world: &SimWorld) {
        let pick = |choices: &[u64]| choices[world.random_below(choices.len() as u64) as usize];
        self.region_cool_ms = pick(&[1, 50, 500, 2_000]);
        self.commit_interval_ms = pick(&[50, 500, 5_000]);
    }

    pub(crate) fn create_options(&self) -> CreateOptions {
        CreateOptions {
            id: PoolId([7; 16]),
            hash: self.hash,
            log_segments: self.log_segments,
            log_segment_bytes: self.log_segment_bytes,
            data_on_device: false,
            now_unix_s: 1,
        }
    }

    pub(crate) fn open_options(&self, boot_id: [u8; 16]) -> OpenOptions {
        OpenOptions {
            capacity_bytes: self.capacity_bytes,
            space_reserve_bytes: 0,
            data_elsewhere: false,
            boot_id,
            pending_hashes_bytes_max: self.pending_hashes_bytes_max,
            commit_interval_ms: self.commit_interval_ms,
            region_cool_ms: self.region_cool_ms,
            grow_regions: 1,
            sort_records_max: self.sort_records_max,
            punch_keep_regions: self.punch_keep_regions,
            // A third, without a draw of its own: seeds stay what they were.
            verify_reads: self.steps_per_tick == 50,
        }
    }

    /// Whether a write may be told that there is no space.
    pub(crate) fn is_tight(&self) -> bool {
        self.capacity_bytes.is_some() || self.disk_bytes.is_some()
    }
}

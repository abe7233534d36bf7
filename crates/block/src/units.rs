//! Sizes and indices. Physical and guest positions, clusters, regions and ids never mix.

/// Bytes in a cluster: the unit of allocation, hashing, sharing and transfer.
pub const CLUSTER_SIZE: usize = 4096;
/// Clusters in an extent of an image's address space, and in a physical region.
pub const EXTENT_CLUSTERS: usize = 1024;
/// Bytes in an extent or a region (4 MiB).
pub const EXTENT_SIZE: u64 = (CLUSTER_SIZE * EXTENT_CLUSTERS) as u64;
/// Extent ids in one page of an image map.
pub const MAP_PAGE_EXTENTS: usize = 512;
/// Image sizes are multiples of this.
pub const SECTOR_SIZE: u64 = 512;
/// Cluster numbers have 40 bits (4 PiB of data).
pub const CLUSTERS_MAX: u64 = 1 << 40;

/// A physical cluster: it lies at `index * 4096` in the data, its hash at `index * 32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterIndex(pub u64);

impl ClusterIndex {
    /// Byte offset in the data file or device.
    pub fn data_offset(self) -> u64 {
        self.0 * CLUSTER_SIZE as u64
    }

    /// The region the cluster lies in.
    pub fn region(self) -> RegionIndex {
        RegionIndex((self.0 / EXTENT_CLUSTERS as u64) as u32)
    }

    /// Position within the region, below 1024.
    pub fn within_region(self) -> usize {
        (self.0 % EXTENT_CLUSTERS as u64) as usize
    }

    /// The cluster `count` places further on.
    pub fn offset_by(self, count: u64) -> ClusterIndex {
        ClusterIndex(self.0 + count)
    }
}

/// 4 MiB of physical clusters: the unit of homes, write intents and hash blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(pub u32);

impl RegionIndex {
    /// The region's first cluster.
    pub fn first_cluster(self) -> ClusterIndex {
        ClusterIndex(u64::from(self.0) * EXTENT_CLUSTERS as u64)
    }

    /// The cluster at a position below 1024.
    pub fn cluster(self, within: usize) -> ClusterIndex {
        self.first_cluster().offset_by(within as u64)
    }
}

/// Names an extent record; never reused within a pool. Zero means "no extent".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentId(pub u64);

/// Names a page of 512 extent ids of an image map; never reused within a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapPageId(pub u64);

/// Names an image for its whole life, whatever it is called; never reused within a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub u64);

//! The headers of `data` and `hashes`: block 0, 4 KiB, little-endian, checksummed. They carry the pool's
//! id, the format and the epoch of the last open, so that a file of another pool, or of an older copy
//! of this one, is refused.

use crate::records::{FORMAT_VERSION, hash_code, hash_from_code, newer_format};
use crate::store::Store;
use crate::types::PoolId;
use blockyard_block::{BufferMut, CLUSTER_SIZE, Error, ErrorKind, HashAlgorithm, Result};
use blockyard_io::{Directory, Disk};

/// Which file a header is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderOf {
    Data,
    Hashes,
}

impl HeaderOf {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            HeaderOf::Data => b"BYDATA\r\n",
            HeaderOf::Hashes => b"BYHASH\r\n",
        }
    }

    pub(crate) fn file(self) -> &'static str {
        match self {
            HeaderOf::Data => "data",
            HeaderOf::Hashes => "hashes",
        }
    }
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) pool: PoolId,
    pub(crate) hash: HashAlgorithm,
    pub(crate) data_on_device: bool,
    pub(crate) created_unix_s: u64,
    pub(crate) epoch: u64,
}

/// Bytes before the checksum: magic, version, pool, hash, device, padding, created, epoch.
const BODY_BYTES: usize = 8 + 4 + 16 + 1 + 1 + 2 + 8 + 8;

impl Header {
    pub(crate) fn encode(&self, of: HeaderOf) -> BufferMut {
        let mut block = BufferMut::zeroed(CLUSTER_SIZE);
        block[..8].copy_from_slice(of.magic());
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[12..28].copy_from_slice(&self.pool.0);
        block[28] = hash_code(self.hash);
        block[29] = u8::from(self.data_on_device);
        block[32..40].copy_from_slice(&self.created_unix_s.to_le_bytes());
        block[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        let checksum = crc32c::crc32c(&block[..BODY_BYTES]);
        block[BODY_BYTES..BODY_BYTES + 4].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    pub(crate) fn decode(of: HeaderOf, block: &[u8]) -> Result<Header> {
        let file = of.file();
        let refuse = |what: &str| {
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{file}: block 0 {what}: is this file or device the one the pool was made with?"
                ),
            )
        };
        if block.len() < CLUSTER_SIZE || &block[..8] != of.magic() {
            return Err(refuse("is not the header of a blockyard pool"));
        }
        let u64_at = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&block[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        };
        let version = u32_at(8);
        if version != FORMAT_VERSION {
            return Err(newer_format(file, version));
        }
        if crate::checksum::differs(u32_at(BODY_BYTES), &block[..BODY_BYTES]) {
            return Err(refuse("does not match its checksum"));
        }
        let mut pool = [0; 16];
        pool.copy_from_slice(&block[12..28]);
        Ok(Header {
            pool: PoolId(pool),
            hash: hash_from_code(block[28])?,
            data_on_device: block[29] != 0,
            created_unix_s: u64_at(32),
            epoch: u64_at(40),
        })
    }

    pub(crate) async fn read(of: HeaderOf, disk: &impl Disk) -> Result<Header> {
        let (result, block) = disk.read(0, BufferMut::zeroed(CLUSTER_SIZE)).await;
        result.map_err(|error| {
            let short = error.kind() == std::io::ErrorKind::UnexpectedEof;
            let error = Error::io(format_args!("read of the header of {}", of.file()), error);
            match short {
                true => Error::new(
                    ErrorKind::Corrupt,
                    format!("{}: too short to hold its header", of.file()),
                ),
                false => error,
            }
        })?;
        Header::decode(of, &block)
    }

    pub(crate) async fn write(&self, of: HeaderOf, disk: &impl Disk) -> Result<()> {
        let failed = |error| Error::io(format_args!("write of the header of {}", of.file()), error);
        disk.write(0, self.encode(of).freeze()).await.map_err(failed)?;
        disk.sync().await.map_err(failed)
    }
}

/// Of damaged metadata: the same error, unless data and hashes agree that the log is of another pool, or an older
/// copy. Such a log makes the checkpoint seem to be damaged.
pub(crate) async fn explain<D: Directory>(
    directory: &D,
    data: &D::Disk,
    hashes: &D::Disk,
    error: Error,
) -> Error {
    if error.kind() != ErrorKind::Corrupt {
        return error;
    }
    let data = Header::read(HeaderOf::Data, data).await;
    let hashes = Header::read(HeaderOf::Hashes, hashes).await;
    let (Ok(data), Ok(hashes), Ok((log, opened))) = (data, hashes, Store::origin(directory).await)
    else {
        return error;
    };
    let problem = if data.pool != hashes.pool {
        return error;
    } else if data.pool != log {
        format!("belongs to pool {log}, data and hashes to pool {}", data.pool)
    } else if data.epoch.min(hashes.epoch) > opened {
        let times = data.epoch.min(hashes.epoch);
        format!(
            "is an older copy: data and hashes were opened {times} times, the log {opened} times"
        )
    } else {
        return error;
    };
    let advice = "put back the log and the checkpoint that belong to them";
    Error::new(ErrorKind::Corrupt, format!("log: {problem}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_of_a_header_goes_unnoticed() {
        let header = Header {
            pool: PoolId([3; 16]),
            hash: HashAlgorithm::Blake3,
            data_on_device: false,
            created_unix_s: 77,
            epoch: 12,
        };
        let block = header.encode(HeaderOf::Data);
        assert_eq!(Header::decode(HeaderOf::Data, &block).unwrap(), header);
        assert!(Header::decode(HeaderOf::Hashes, &block).is_err());
        for bit in 0..(BODY_BYTES + 4) * 8 {
            let mut flipped = BufferMut::copy_of(&block);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(HeaderOf::Data, &flipped).is_err(), "bit {bit}");
        }
    }
}

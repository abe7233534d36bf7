//! Whether `data`, `hashes` and the metadata are of one pool and of one moment.

use super::findings::Findings;
use super::length_of;
use super::records::Records;
use crate::headers::{Header, HeaderOf};
use crate::store::Recovery;
use blockyard_block::{Error, ErrorKind, HashAlgorithm, Result};
use blockyard_io::{Directory, Disk};

/// The files beside the metadata.
pub(super) struct Files<'a, K> {
    pub(super) data: &'a K,
    pub(super) data_bytes: u64,
    /// Missing or unusable is `None`, and a finding.
    pub(super) hashes: Option<K>,
    pub(super) hashes_bytes: u64,
    pub(super) hash: HashAlgorithm,
    /// The headers fit the metadata, so that comparing the content makes sense.
    pub(super) belong_together: bool,
}

impl<'a, K: Disk> Files<'a, K> {
    /// Reads and judges the headers. `recovery` is `None` if the metadata could not be read.
    pub(super) async fn open<D: Directory<Disk = K>>(
        directory: &D,
        data: &'a K,
        records: &Records,
        recovery: Option<Recovery>,
        findings: &mut Findings,
    ) -> Result<Files<'a, K>> {
        let hashes = open_hashes(directory, findings).await?;
        let data_header = read_header(HeaderOf::Data, data, findings).await?;
        let hashes_header = match &hashes {
            Some(hashes) => read_header(HeaderOf::Hashes, hashes, findings).await?,
            None => None,
        };
        let pool = records.pool.as_ref();
        let known = pool.map(|pool| pool.hash);
        let hash = known.or(data_header.as_ref().map(|header| header.hash));
        let mut belong_together = data_header.is_some() && hashes_header.is_some();
        for (of, header) in [(HeaderOf::Data, &data_header), (HeaderOf::Hashes, &hashes_header)] {
            let (Some(header), Some(recovery)) = (header, recovery) else { continue };
            let epoch_min = pool.map_or(0, |pool| pool.headers_epoch);
            if let Some(problem) = judge(header, &recovery, epoch_min, hash) {
                findings.general(format!(
                    "{} {problem}; put the files of one pool, of one moment, together (their \
                     content was not compared)",
                    of.file()
                ));
                belong_together = false;
            }
        }
        if let (Some(pool), Some(recovery)) = (pool, recovery)
            && pool.id != recovery.pool
        {
            findings.general(format!(
                "the metadata is of pool {}, but the log of pool {}",
                pool.id, recovery.pool
            ));
            belong_together = false;
        }
        // What a failed sync left in the cache is not what the disk holds, be it bytes or a length. Best effort.
        let _ = data.drop_cache().await;
        if let Some(hashes) = &hashes {
            let _ = hashes.drop_cache().await;
        }
        let hashes_bytes = match &hashes {
            Some(hashes) => length_of(hashes, "hashes").await?,
            None => 0,
        };
        Ok(Files {
            data,
            data_bytes: length_of(data, "data").await?,
            hashes,
            hashes_bytes,
            hash: hash.unwrap_or(HashAlgorithm::Blake3),
            belong_together,
        })
    }
}

/// Whether anything but the log says that there is a pool.
pub(super) async fn any_is_there<D: Directory>(directory: &D, data: &D::Disk) -> bool {
    let in_hashes = match directory.open("hashes").await {
        Ok(hashes) => Header::read(HeaderOf::Hashes, &hashes).await.is_ok(),
        Err(_) => false,
    };
    in_hashes || Header::read(HeaderOf::Data, data).await.is_ok()
}

async fn open_hashes<D: Directory>(
    directory: &D,
    findings: &mut Findings,
) -> Result<Option<D::Disk>> {
    match directory.open("hashes").await {
        Ok(hashes) => Ok(Some(hashes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.general("hashes is missing: no content can be verified");
            Ok(None)
        }
        Err(error) => Err(Error::io("opening hashes", error)),
    }
}

async fn read_header<K: Disk>(
    of: HeaderOf,
    disk: &K,
    findings: &mut Findings,
) -> Result<Option<Header>> {
    match Header::read(of, disk).await {
        Ok(header) => Ok(Some(header)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
        Err(error) => {
            findings.general(error.message());
            Ok(None)
        }
    }
}

/// What does not fit. Each open raises the epoch in the metadata first, then in the headers, and then
/// notes in the metadata that it did: a header may be ahead of the note and never behind it.
fn judge(
    header: &Header,
    recovery: &Recovery,
    epoch_min: u64,
    hash: Option<HashAlgorithm>,
) -> Option<String> {
    if header.pool != recovery.pool {
        return Some(format!("belongs to pool {}, the log to {}", header.pool, recovery.pool));
    }
    if Some(header.hash) != hash {
        return Some(format!(
            "was made with {}, the metadata with another hash",
            header.hash.name()
        ));
    }
    if header.epoch > recovery.epoch {
        return Some(format!(
            "was opened {} times, the metadata only {}: log and checkpoint are an older copy",
            header.epoch, recovery.epoch
        ));
    }
    if header.epoch < epoch_min {
        return Some(format!(
            "is an older copy: it was opened {} times, the metadata knows of {epoch_min}",
            header.epoch
        ));
    }
    None
}

//! Makes a large pool without writing data, so that time and memory of opening it can be measured.
//! What is in it is the business of `blockyard_pool::synthetic`; only files and options are here.

use crate::Unclear;
use blockyard_block::EXTENT_SIZE;
use blockyard_io::{Directory, HostDirectory, HostOptions, block_on};
use blockyard_pool::PoolId;
use blockyard_pool::synthetic::SyntheticPool;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) const HELP: &str = "\
usage: cargo xtask make-pool [--tib N | --gib N] [--images N] [--seed N] [--hashes] DIR

Makes a pool in DIR (new or empty) whose metadata says that all of it is allocated:
half of the extents have random bitmaps, a tenth have 64 references to clusters
elsewhere, the rest are full. No data is written: the data file is sparse.

  --tib N, --gib N   size (1 TiB)
  --images N         images that share the extents (50)
  --seed N           the same seed makes the same pool (1)
  --hashes           fill the whole hash table (8 GiB a TiB), not only its first 8 MiB

Exit code: 0 if the pool was made, 2 if not. Measure with
`cargo run --release -p blockyard-pool --example open_pool -- DIR`.";

/// Regions whose hashes are written without `--hashes`: 8 MiB of them.
const REGIONS_HASHED: u32 = 256;

#[derive(Debug, PartialEq, Eq)]
struct Request {
    directory: PathBuf,
    bytes: u64,
    images: u32,
    seed: u64,
    hashes: bool,
}

pub(crate) fn run(arguments: &[String]) -> Result<bool, Unclear> {
    let request = parse(arguments)?;
    let extents = u32::try_from(request.bytes / EXTENT_SIZE)?;
    let plan = SyntheticPool {
        id: PoolId([0xb1; 16]),
        extents,
        images: request.images,
        seed: request.seed,
        regions_hashed: if request.hashes { extents } else { REGIONS_HASHED.min(extents) },
    };
    let directory = Arc::new(HostDirectory::create(&request.directory, HostOptions::default())?);
    let place = request.directory.display();
    let data = block_on(directory.create("data")).map_err(|error| format!("{place}: {error}"))?;
    block_on(plan.make(&directory, &data)).map_err(|error| format!("{place}: {error}"))?;
    println!("{place}: {extents} extents in {} images", request.images);
    Ok(true)
}

fn parse(arguments: &[String]) -> Result<Request, Unclear> {
    let mut directory = None;
    let mut request =
        Request { directory: PathBuf::new(), bytes: 1 << 40, images: 50, seed: 1, hashes: false };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, Unclear> {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            Ok(value.parse().map_err(|_| format!("{argument} {value}: not a number"))?)
        };
        match argument.as_str() {
            "--tib" => request.bytes = size(number()?, 40)?,
            "--gib" => request.bytes = size(number()?, 30)?,
            "--images" => request.images = u32::try_from(number()?)?,
            "--seed" => request.seed = number()?,
            "--hashes" => request.hashes = true,
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}\n\n{HELP}").into());
            }
            path => directory = Some(PathBuf::from(path)),
        }
    }
    request.directory = directory.ok_or("make-pool: in which directory?")?;
    Ok(request)
}

/// At most 1 PiB: homes are counted in 32 bits.
fn size(number: u64, shift: u32) -> Result<u64, Unclear> {
    let bytes = number.checked_mul(1 << shift).filter(|bytes| (1..=1 << 50).contains(bytes));
    Ok(bytes.ok_or("the size must be between 1 GiB and 1 PiB")?)
}

#[cfg(test)]
mod tests;

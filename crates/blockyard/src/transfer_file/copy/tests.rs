//! What `copy` promises, one test for each promise.

use super::{Shape, Sink, copy};
use crate::transfer_file::progress::Progress;
use crate::transfer_file::source::{Run, Source};
use crate::transfer_file::testing::{Seeded, disk_content};
use blockyard_block::{Buffer, Error, ErrorKind, Result};
use std::sync::Mutex;

/// Content whose runs of data and zeros change at any byte.
struct Ragged {
    content: Vec<u8>,
    /// Ends of runs; the first is of zeros, then data, and so on.
    ends: Vec<u64>,
}

impl Ragged {
    fn of(size: usize, seed: u64) -> Ragged {
        let mut seeded = Seeded(seed);
        let mut content = disk_content(size, seed);
        let (mut ends, mut position) = (Vec::new(), 0);
        while position < size {
            let end =
                size.min(position + 1 + seeded.below([10, 5000, 70_000, 3 << 20][ends.len() % 4]));
            if ends.len() % 2 == 0 {
                content[position..end].fill(0);
            }
            ends.push(end as u64);
            position = end;
        }
        Ragged { content, ends }
    }
}

impl Source for Ragged {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn run_at(&self, offset: u64) -> Result<Run> {
        assert!(offset < self.size());
        let index = self.ends.partition_point(|&end| end <= offset);
        Ok(Run { length: self.ends[index] - offset, zero: index % 2 == 0 })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.copy_from_slice(&self.content[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
}

/// Refuses to be written twice in one place.
struct Once(Mutex<Vec<Option<u8>>>);

impl Sink for Once {
    fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        let mut bytes = self.0.lock().unwrap();
        for (place, &byte) in
            bytes[offset as usize..offset as usize + data.len()].iter_mut().zip(&*data)
        {
            assert!(place.replace(byte).is_none(), "written twice");
        }
        Ok(())
    }
}

#[test]
fn data_of_any_shape_arrives_once_and_whole() {
    for seed in 0..60 {
        let size = 1 + Seeded(seed).below(6 << 20);
        let source = Ragged::of(size, seed);
        let rounded = size.next_multiple_of(512);
        let granularity = [4096, 65536][seed as usize % 2];
        let shape = Shape { size: rounded as u64, granularity, threads: 3 };
        let sink = Once(Mutex::new(vec![None; rounded]));
        let progress = Progress::unseen();
        copy(&source, &sink, shape, &progress).unwrap();
        let written = sink.0.into_inner().unwrap();
        let read_back: Vec<u8> = written.iter().map(|byte| byte.unwrap_or(0)).collect();
        assert!(read_back[..size] == source.content, "seed {seed}");
        assert!(read_back[size..].iter().all(|&byte| byte == 0), "seed {seed}");
        assert!(progress.done_bytes() >= size as u64, "seed {seed}");
        assert!(progress.done_bytes() <= rounded as u64, "seed {seed}");
    }
}

#[test]
fn the_first_error_of_a_sink_ends_the_copy() {
    struct Failing;
    impl Sink for Failing {
        fn write(&self, _: u64, _: Buffer) -> Result<()> {
            Err(Error::new(ErrorKind::NoSpace, "full"))
        }
    }
    let source = Ragged::of(20 << 20, 7);
    let shape = Shape { size: 20 << 20, granularity: 4096, threads: 3 };
    let progress = Progress::unseen();
    let error = copy(&source, &Failing, shape, &progress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(progress.done_bytes() < 20 << 20);
}

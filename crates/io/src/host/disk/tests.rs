//! What `disk` promises, one test for each promise.

use crate::host::test_support::FORK_GRACE;
use crate::{Disk, Fence, HostDisk, HostOptions, block_on};
use blockyard_block::{Buffer, BufferMut};
use std::io;
use std::path::Path;

fn both_modes(test: impl Fn(&Path, &HostOptions)) {
    for direct in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        test(&folder.path().join("file"), &HostOptions { direct, ..HostOptions::default() });
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 4096 + at % 251) as u8).collect()
}

#[test]
fn what_is_written_is_read_back_also_after_reopening() {
    both_modes(|path, options| {
        let bytes = pattern(5 * 4096);
        {
            let disk = HostDisk::create(path, options).unwrap();
            block_on(disk.write(4096, Buffer::copy_of(&bytes))).unwrap();
            block_on(disk.sync()).unwrap();
        }
        let disk = HostDisk::open(path, options).unwrap();
        block_on(disk.drop_cache()).unwrap();
        let (result, found) = block_on(disk.read(4096, BufferMut::zeroed(bytes.len())));
        result.unwrap();
        assert_eq!(&*found, &*bytes);
    });
}

#[test]
fn memory_need_not_be_aligned() {
    both_modes(|path, options| {
        let bytes = pattern(3 * 4096);
        let disk = HostDisk::create(path, options).unwrap();
        let mut shifted = BufferMut::zeroed_at_phase(bytes.len(), 1);
        shifted.copy_from_slice(&bytes);
        block_on(disk.write(0, shifted.freeze())).unwrap();
        let buffer = BufferMut::zeroed_at_phase(2 * 4096, 1);
        let (result, found) = block_on(disk.read(4096, buffer));
        result.unwrap();
        assert_eq!(*found, bytes[4096..]);
    });
}

#[test]
fn a_read_beyond_the_end_is_an_unexpected_end() {
    both_modes(|path, options| {
        let disk = HostDisk::create(path, options).unwrap();
        for length in [0, 4096, 4096 + 512] {
            block_on(disk.set_length(length)).unwrap();
            for offset in [0, 4096, 1 << 40] {
                let (result, _) = block_on(disk.read(offset, BufferMut::zeroed(8192)));
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    });
}

#[test]
fn ranges_that_are_not_whole_clusters_are_refused_in_both_modes() {
    both_modes(|path, options| {
        let disk = HostDisk::create(path, options).unwrap();
        let last = u64::MAX - 4095;
        for (offset, length) in [(512, 4096), (0, 100), (4095, 1), (last, 4096)] {
            let refused = |result: io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            };
            refused(block_on(disk.read(offset, BufferMut::zeroed(length))).0);
            refused(block_on(disk.write(offset, BufferMut::zeroed(length).freeze())));
            refused(block_on(disk.allocate(offset, length as u64)));
            refused(block_on(disk.punch(offset, length as u64)));
        }
    });
}

#[test]
fn empty_requests_do_nothing() {
    both_modes(|path, options| {
        let disk = HostDisk::create(path, options).unwrap();
        block_on(disk.read(0, BufferMut::zeroed(0))).0.unwrap();
        block_on(disk.write(4096, Buffer::copy_of(&[]))).unwrap();
        block_on(disk.allocate(4096, 0)).unwrap();
        block_on(disk.punch(0, 0)).unwrap();
        assert_eq!(block_on(disk.length()).unwrap(), 0);
    });
}

#[test]
fn the_disk_says_whether_it_is_direct() {
    let folder = tempfile::tempdir().unwrap();
    let buffered = HostOptions { direct: false, ..HostOptions::default() };
    let disk = HostDisk::create(folder.path().join("buffered"), &buffered).unwrap();
    assert!(!disk.is_direct());
    // Which of the two a file system gives is its business; that the answer is true is ours.
    let disk = HostDisk::create(folder.path().join("direct"), &HostOptions::default()).unwrap();
    let flags = rustix::fs::fcntl_getfl(&disk.file).unwrap();
    assert_eq!(disk.is_direct(), flags.contains(rustix::fs::OFlags::DIRECT));
}

#[test]
fn a_file_system_that_refuses_direct_io_is_served_buffered() {
    // procfs knows no O_DIRECT on any kernel.
    let options = HostOptions { read_only: true, ..HostOptions::default() };
    let disk = HostDisk::open("/proc/self/status", &options).unwrap();
    assert!(!disk.is_direct());
}

#[test]
fn creating_refuses_a_taken_name_and_opening_a_missing_one() {
    both_modes(|path, options| {
        let missing = HostDisk::open(path, options).err().unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        HostDisk::create(path, options).unwrap();
        let taken = HostDisk::create(path, options).err().unwrap();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    });
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    both_modes(|path, options| {
        std::fs::write(path, [0; 4096]).unwrap();
        let options = HostOptions { read_only: true, ..options.clone() };
        let disk = HostDisk::open(path, &options).unwrap();
        block_on(disk.write(0, Buffer::copy_of(&[1; 4096]))).unwrap_err();
        assert_eq!(std::fs::read(path).unwrap(), [0; 4096]);
    });
}

#[test]
fn a_file_has_one_writer_or_many_readers() {
    both_modes(|path, options| {
        let writer = HostOptions { fence: Some(Fence::Exclusive), ..options.clone() };
        let reader = HostOptions { fence: Some(Fence::Shared), ..options.clone() };
        let disk = HostDisk::create(path, &writer).unwrap();
        for refused in [&writer, &reader] {
            let error = HostDisk::open(path, refused).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
            assert!(error.to_string().contains(path.to_str().unwrap()));
        }
        disk.lock(Fence::Shared).unwrap();
        let second = HostDisk::open(path, &reader).unwrap();
        assert_eq!(disk.lock(Fence::Exclusive).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(second);
        disk.lock_within(Fence::Exclusive, FORK_GRACE).unwrap();
    });
}

#[test]
fn children_do_not_inherit_the_description_that_holds_the_fence() {
    both_modes(|path, options| {
        let writer = HostOptions { fence: Some(Fence::Exclusive), ..options.clone() };
        let disk = HostDisk::create(path, &writer).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(disk);
        let patient = HostOptions { fence_wait: FORK_GRACE, ..writer };
        let reopened = HostDisk::open(path, &patient);
        child.kill().unwrap();
        child.wait().unwrap();
        reopened.unwrap();
    });
}

//! What `space` promises, one test for each promise.

use super::fill_holes;
use crate::host::test_support::{FORK_GRACE, LoopDevice, SmallFileSystem};
use crate::{Disk, HostDisk, HostOptions, block_on};
use blockyard_block::{Buffer, BufferMut};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

const MIB: u64 = 1 << 20;

fn read(disk: &HostDisk, offset: u64, length: usize) -> BufferMut {
    let (result, buffer) = block_on(disk.read(offset, BufferMut::zeroed(length)));
    result.unwrap();
    buffer
}

#[test]
fn a_full_file_system_shows_in_allocate_and_never_in_a_write_to_what_was_allocated() {
    let Some(small) = SmallFileSystem::new(32 * MIB) else { return };
    let disk = HostDisk::create(small.path().join("data"), &HostOptions::default()).unwrap();
    let mut allocated = 0;
    let error = loop {
        match block_on(disk.allocate(allocated, MIB)) {
            Ok(()) => allocated += MIB,
            Err(error) => break error,
        }
        assert!(allocated < 64 * MIB, "a 32 MiB file system does not hold this");
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(allocated > 8 * MIB);
    let piece = Buffer::copy_of(&vec![7; MIB as usize]);
    for offset in (0..allocated).step_by(MIB as usize) {
        block_on(disk.write(offset, piece.clone())).unwrap();
    }
    block_on(disk.sync()).unwrap();

    block_on(disk.punch(0, 4 * MIB)).unwrap();
    block_on(disk.allocate(allocated, MIB)).unwrap();
}

#[test]
fn allocation_takes_space_and_keeps_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let disk = HostDisk::create(&path, &HostOptions::default()).unwrap();
    block_on(disk.write(8192, Buffer::copy_of(&[9; 4096]))).unwrap();
    block_on(disk.allocate(0, MIB)).unwrap();
    assert_eq!(block_on(disk.length()).unwrap(), MIB);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= MIB);
    assert!(read(&disk, 0, 8192).iter().all(|byte| *byte == 0));
    assert!(read(&disk, 8192, 4096).iter().all(|byte| *byte == 9));
}

#[test]
fn without_fallocate_the_holes_of_the_range_are_filled_and_nothing_else_changes() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4 * MIB).unwrap();
    file.write_all_at(&[1; 100], MIB + 50).unwrap();
    file.write_all_at(&[2; 8192], 3 * MIB).unwrap();
    file.sync_all().unwrap();
    fill_holes(&file, MIB..5 * MIB).unwrap();
    file.sync_all().unwrap();
    let found = file.metadata().unwrap();
    assert_eq!(found.len(), 5 * MIB);
    let taken = found.blocks() * 512;
    assert!((4 * MIB..5 * MIB).contains(&taken), "the hole before the range stays: {taken}");
    let mut bytes = vec![0; 5 * MIB as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let expected = |at: u64| match at {
        at if (MIB + 50..MIB + 150).contains(&at) => 1,
        at if (3 * MIB..3 * MIB + 8192).contains(&at) => 2,
        _ => 0,
    };
    assert!((0..).zip(&bytes).all(|(at, byte)| *byte == expected(at)));
}

#[test]
fn filling_starts_inside_the_last_cluster_of_a_ragged_file() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[5; 5000], 0).unwrap();
    fill_holes(&file, 4096..12288).unwrap();
    let mut bytes = [1; 12288];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..5000].iter().all(|byte| *byte == 5));
    assert!(bytes[5000..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_punched_range_of_a_file_reads_zero_and_takes_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let disk = HostDisk::create(&path, &HostOptions::default()).unwrap();
    block_on(disk.write(0, Buffer::copy_of(&vec![3; 2 * MIB as usize]))).unwrap();
    block_on(disk.sync()).unwrap();
    block_on(disk.punch(0, MIB)).unwrap();
    assert!(read(&disk, 0, MIB as usize).iter().all(|byte| *byte == 0));
    assert!(read(&disk, MIB, MIB as usize).iter().all(|byte| *byte == 3));
    assert_eq!(block_on(disk.length()).unwrap(), 2 * MIB);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 2 * MIB);
}

#[test]
fn a_block_device_has_a_fixed_length_and_only_one_writer() {
    let Some(device) = LoopDevice::new(8 * MIB) else { return };
    let disk = HostDisk::open(device.path(), &HostOptions::default()).unwrap();
    assert!(disk.is_block_device());
    assert_eq!(block_on(disk.length()).unwrap(), 8 * MIB);
    block_on(disk.set_length(8 * MIB)).unwrap();
    let error = block_on(disk.set_length(4 * MIB)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    block_on(disk.allocate(4 * MIB, 4 * MIB)).unwrap();
    let error = block_on(disk.allocate(4 * MIB, 4 * MIB + 4096)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);

    let error = HostDisk::open(device.path(), &HostOptions::default()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    let reader = HostOptions { read_only: true, ..HostOptions::default() };
    HostDisk::open(device.path(), &reader).unwrap();
}

#[test]
fn a_block_device_keeps_what_is_written_and_gives_punched_ranges_back() {
    let Some(device) = LoopDevice::new(8 * MIB) else { return };
    for direct in [true, false] {
        let options = HostOptions { direct, fence_wait: FORK_GRACE, ..HostOptions::default() };
        let disk = HostDisk::open(device.path(), &options).unwrap();
        block_on(disk.write(0, Buffer::copy_of(&vec![6; 2 * MIB as usize]))).unwrap();
        block_on(disk.sync()).unwrap();
        block_on(disk.punch(0, MIB)).unwrap();
        block_on(disk.drop_cache()).unwrap();
        assert!(read(&disk, 0, MIB as usize).iter().all(|byte| *byte == 0));
        assert!(read(&disk, MIB, MIB as usize).iter().all(|byte| *byte == 6));
    }
}

#[test]
fn a_discard_is_accepted_by_a_block_device_and_by_nothing_else() {
    use std::os::fd::AsFd;
    let file = tempfile::tempfile().unwrap();
    assert_eq!(super::discard(file.as_fd(), &(0..4096)), Err(rustix::io::Errno::NOTTY));
    let Some(device) = LoopDevice::new(MIB) else { return };
    let open = std::fs::OpenOptions::new().read(true).write(true).open(device.path()).unwrap();
    super::discard(open.as_fd(), &(0..MIB)).unwrap();
    super::discard(open.as_fd(), &(0..2 * MIB)).unwrap_err();
}

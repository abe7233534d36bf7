//! A list gives back what was written, and no flipped bit passes.

use super::{Writer, hashes, load, path};
use blockyard_block::{BufferMut, ContentHash, EXTENT_CLUSTERS, EXTENT_SIZE, ImageId};
use blockyard_io::{Directory, Disk};
use blockyard_sim::{Executor, SimWorld};

const IMAGE: ImageId = ImageId(7);

fn slots(index: u64) -> Vec<(usize, ContentHash)> {
    let step = 1 + index as usize % 5;
    let hash = |slot: usize| {
        let mut bytes = [index as u8; 32];
        bytes[..8].copy_from_slice(&(slot as u64).to_le_bytes());
        ContentHash(bytes)
    };
    (0..EXTENT_CLUSTERS).step_by(step).map(|slot| (slot, hash(slot))).collect()
}

#[test]
fn a_list_gives_back_what_was_written_and_no_flipped_bit_passes() {
    let world = SimWorld::new(1);
    let directory = world.directory();
    Executor::new(&world).run(async move {
        let indices: Vec<u64> = (0..70).map(|number| number * 3).collect();
        let size = 300 * EXTENT_SIZE;
        let mut writer = Writer::create(&directory, IMAGE).await.unwrap();
        for index in &indices {
            writer.push(*index, &slots(*index)).await.unwrap();
        }
        writer.push(1_000, &[]).await.unwrap();
        writer.finish(&directory, size, b"origin".to_vec()).await.unwrap();
        let disk = directory.open(&path(IMAGE)).await.unwrap();
        let contents = load(&disk, IMAGE).await.unwrap();
        assert_eq!((contents.size, contents.origin.as_slice()), (size, &b"origin"[..]));
        let found: Vec<u64> = contents.extents.iter().map(|extent| extent.index).collect();
        assert_eq!(found, indices);
        for extent in &contents.extents {
            let listed = extent.slots.ones().zip(hashes(&disk, extent).await.unwrap());
            assert_eq!(listed.collect::<Vec<_>>(), slots(extent.index));
        }
        assert!(load(&disk, ImageId(8)).await.is_err(), "of another image");
        let length = disk.length().await.unwrap();
        for place in (0..length).step_by(4096) {
            let (_, good) = disk.read(place, BufferMut::zeroed(4096)).await;
            let mut bad = BufferMut::copy_of(&good);
            bad[(place / 4096 * 37 % 4092) as usize] ^= 4;
            disk.write(place, bad.freeze()).await.unwrap();
            let mut sound = false;
            if let Ok(contents) = load(&disk, IMAGE).await {
                sound = true;
                for extent in &contents.extents {
                    sound &= hashes(&disk, extent).await.is_ok();
                }
            }
            assert!(!sound, "a flipped bit at {place} passed");
            disk.write(place, good.freeze()).await.unwrap();
        }
    });
}

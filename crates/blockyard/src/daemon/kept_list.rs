//! A short list in a file of the pool's directory. Each change is on disk before it counts.

use crate::daemon::peers::replace;
use blockyard_block::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) struct KeptList<T> {
    folder: PathBuf,
    file: &'static str,
    list: Mutex<List<T>>,
}

struct List<T> {
    items: Vec<T>,
    /// A change failed half way: the file may have it, though it does not count.
    unsure: bool,
}

impl<T: Clone + PartialEq + Serialize + DeserializeOwned> KeptList<T> {
    /// `what` is said of a file that cannot be read.
    pub(crate) fn load(folder: &Path, file: &'static str, what: &str) -> Result<KeptList<T>> {
        let list = match fs::read(folder.join(file)) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                Error::new(ErrorKind::Corrupt, format!("{what} ({file}) cannot be read: {error}"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io(file, error)),
        };
        let list = Mutex::new(List { items: list, unsure: false });
        Ok(KeptList { folder: folder.to_owned(), file, list })
    }

    pub(crate) fn list(&self) -> Vec<T> {
        self.lock().items.clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<T>)) -> Result<()> {
        let mut list = self.lock();
        let mut changed = list.items.clone();
        change(&mut changed);
        if list.unsure || list.items != changed {
            let text = serde_json::to_vec_pretty(&changed)
                .map_err(|error| Error::io(self.file, io::Error::from(error)))?;
            list.unsure = true;
            replace(&self.folder, self.file, &text)?;
            *list = List { items: changed, unsure: false };
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, List<T>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::KeptList;
    use std::fs;

    #[test]
    fn what_a_change_that_failed_left_in_the_file_goes_with_the_next_even_if_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let list: KeptList<u64> = KeptList::load(folder.path(), "list.json", "a list").unwrap();
        // The new file can be written, and cannot take its place.
        fs::create_dir(folder.path().join("list.json")).unwrap();
        assert!(list.change(|list| list.push(7)).is_err());
        fs::remove_dir(folder.path().join("list.json")).unwrap();
        // As if only the sync behind it had failed.
        fs::write(folder.path().join("list.json"), "[7]").unwrap();
        list.change(|list| list.retain(|number| *number != 7)).unwrap();
        let read: KeptList<u64> = KeptList::load(folder.path(), "list.json", "a list").unwrap();
        assert_eq!(read.list(), Vec::<u64>::new());
    }
}

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
    list: Mutex<Vec<T>>,
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
        Ok(KeptList { folder: folder.to_owned(), file, list: Mutex::new(list) })
    }

    pub(crate) fn list(&self) -> Vec<T> {
        self.lock().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<T>)) -> Result<()> {
        let mut list = self.lock();
        let mut changed = list.clone();
        change(&mut changed);
        if *list != changed {
            let text = serde_json::to_vec_pretty(&changed)
                .map_err(|error| Error::io(self.file, io::Error::from(error)))?;
            replace(&self.folder, self.file, &text)?;
            *list = changed;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

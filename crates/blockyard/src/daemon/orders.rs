//! The transfers that users asked for and that have not ended, in a file of the pool's directory: a daemon that is
//! started again goes on with them. An order is on disk before its work begins, and goes when its job has ended for
//! any other reason than the daemon's end.

use crate::daemon::peers::replace;
use blockyard_api::{LazyTerms, TransferTerms};
use blockyard_block::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const FILE: &str = "transfers.json";

/// A transfer as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptOrder {
    /// The number of its job, in every run.
    pub(crate) job: u64,
    pub(crate) push: bool,
    pub(crate) peer: String,
    /// The image's name here, and at the peer.
    pub(crate) here: String,
    pub(crate) there: String,
    pub(crate) terms: TransferTerms,
    /// Of a push: the id of the snapshot that is sent.
    pub(crate) snapshot: Option<u64>,
    /// Of a pull of an image that shows at once: what its dependant is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dependant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lazy: Option<LazyTerms>,
}

/// All of them.
pub(crate) struct Orders {
    folder: PathBuf,
    list: Mutex<Vec<KeptOrder>>,
}

impl Orders {
    pub(crate) fn load(folder: &Path) -> Result<Orders> {
        let list = match fs::read(folder.join(FILE)) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the list of transfers ({FILE}) cannot be read: {error}; without the file none of them goes on"
                    ),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io(FILE, error)),
        };
        Ok(Orders { folder: folder.to_owned(), list: Mutex::new(list) })
    }

    pub(crate) fn list(&self) -> Vec<KeptOrder> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps an order, or keeps it otherwise than before.
    pub(crate) fn keep(&self, order: &KeptOrder) -> Result<()> {
        self.change(|list| {
            list.retain(|other| other.job != order.job);
            list.push(order.clone());
        })
    }

    pub(crate) fn forget(&self, job: u64) -> Result<()> {
        self.change(|list| list.retain(|order| order.job != job))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<KeptOrder>)) -> Result<()> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = list.clone();
        change(&mut changed);
        if *list != changed {
            let text = serde_json::to_vec_pretty(&changed)
                .map_err(|error| Error::io(FILE, io::Error::from(error)))?;
            replace(&self.folder, FILE, &text)?;
            *list = changed;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{KeptOrder, Orders};
    use blockyard_api::TransferTerms;

    #[test]
    fn an_order_is_there_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let order = KeptOrder {
            job: 7,
            push: true,
            peer: "b".to_owned(),
            here: "web".to_owned(),
            there: "web".to_owned(),
            terms: TransferTerms::default(),
            snapshot: Some(12),
            dependant: None,
            lazy: None,
        };
        Orders::load(folder.path()).unwrap().keep(&order).unwrap();
        let orders = Orders::load(folder.path()).unwrap();
        assert_eq!(orders.list(), [order]);
        orders.forget(7).unwrap();
        assert_eq!(Orders::load(folder.path()).unwrap().list(), []);
        std::fs::write(folder.path().join(super::FILE), "nonsense").unwrap();
        assert!(Orders::load(folder.path()).is_err());
    }
}

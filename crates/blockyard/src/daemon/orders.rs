//! The transfers that users asked for and that have not ended, in a file of the pool's directory: a daemon that is
//! started again goes on with them. An order is on disk before its work begins, and goes when its job has ended for
//! any other reason than the daemon's end.

use crate::daemon::kept_list::KeptList;
use blockyard_api::{LazyTerms, TransferTerms};
use blockyard_block::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

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
    list: KeptList<KeptOrder>,
}

impl Orders {
    pub(crate) fn load(folder: &Path) -> Result<Orders> {
        let what = "the list of transfers, none of which goes on without it";
        Ok(Orders { list: KeptList::load(folder, FILE, what)? })
    }

    pub(crate) fn list(&self) -> Vec<KeptOrder> {
        self.list.list()
    }

    /// Keeps an order, or keeps it otherwise than before.
    pub(crate) fn keep(&self, order: &KeptOrder) -> Result<()> {
        self.list.change(|list| {
            list.retain(|other| other.job != order.job);
            list.push(order.clone());
        })
    }

    pub(crate) fn forget(&self, job: u64) -> Result<()> {
        self.list.change(|list| list.retain(|order| order.job != job))
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

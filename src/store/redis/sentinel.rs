//! Sentinels: whoever connects asks them where the master is.

use std::sync::atomic::{AtomicUsize, Ordering};

use redis::RedisConnectionInfo;

use super::failure::{Failure, Note, of_client};
use super::link::unexpected;
use super::manager::Setup;
use super::target::Address;

pub(super) struct Sentinels {
    pub(super) addresses: Vec<Address>,
    pub(super) master: String,
    pub(super) login: RedisConnectionInfo,
    /// The one that answered last is asked first.
    pub(super) last: AtomicUsize,
}

impl Sentinels {
    /// Where the master is, by the word of the first Sentinel that answers. Whether it *is* a master
    /// is checked on the connection itself: a Sentinel may not know yet.
    pub(super) async fn master(&self, setup: &Setup) -> Result<Address, Failure> {
        let share = setup.connect / 2 / self.addresses.len().max(1) as u32;
        let first = self.last.load(Ordering::Relaxed);
        let mut failure = None;
        for step in 0..self.addresses.len() {
            let index = (first + step) % self.addresses.len();
            let asked = tokio::time::timeout(share, self.ask(setup, &self.addresses[index])).await;
            match asked.unwrap_or_else(|elapsed| Err(Failure::not_sent(elapsed))) {
                Ok(address) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok(address);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Failure::misconfigured(Note("no Sentinel is given".into()))))
    }

    async fn ask(&self, setup: &Setup, sentinel: &Address) -> Result<Address, Failure> {
        let link = setup.dial(sentinel, &self.login).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(&self.master);
        let value = link.ask(command, setup.connect).await?;
        let named: Option<(String, u16)> =
            redis::from_redis_value(value).map_err(|error| of_client(error.into(), false))?;
        let (host, port) = named.ok_or_else(|| unexpected("SENTINEL: it knows no master of this name"))?;
        Ok(Address::Tcp { host, port })
    }
}

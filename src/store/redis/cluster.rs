//! A Cluster: which node owns a session's slot, and where redirections lead.
//!
//! The library's own cluster client resends on its own account and does not tell "not sent" from "no
//! answer", on which the exactly-once of a turn rests; it has no place for a TLS provider either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use redis::Value;

use super::failure::{Failure, Note};
use super::link::{Reply, Request, unexpected};
use super::manager::Setup;
use super::node::Node;
use super::target::Address;

const SLOTS: usize = 16_384;
/// Redirections and pauses that one call follows before it gives up: `MOVED` and `ASK` take one or
/// two, the rest rides out the moment in which a slot changes hands.
const PATIENCE: u32 = 12;
const PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Cluster {
    seeds: Vec<Address>,
    setup: Arc<Setup>,
    map: RwLock<Arc<Map>>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    /// Held by whoever reads the map anew; the others wait for that.
    refreshing: tokio::sync::Mutex<()>,
}

/// Who owns which slot, as of some moment.
#[derive(Default)]
struct Map {
    masters: Vec<Address>,
    /// For each slot an index into `masters`; empty before the first reading.
    owners: Vec<Option<u16>>,
}

impl Cluster {
    /// Reads the map from the first seed that answers.
    pub(super) async fn connect(seeds: Vec<Address>, setup: Arc<Setup>) -> Result<Self, Failure> {
        let cluster = Self {
            seeds,
            setup,
            map: RwLock::default(),
            nodes: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        };
        cluster.refresh(&cluster.map()).await?;
        Ok(cluster)
    }

    /// One node per master.
    pub(super) fn masters(&self) -> Vec<Arc<Node>> {
        self.map().masters.iter().map(|address| self.node(address)).collect()
    }

    /// Sends a request to the owner of the key's slot and follows redirections. Only refusals are
    /// followed: they say that nothing was done.
    pub(super) async fn call(&self, key: &[u8], request: &Request) -> Result<Reply, Failure> {
        let slot = slot(key);
        let mut redirected: Option<(Address, bool)> = None;
        let mut last = Failure::not_sent(Note("no node owns the session's slot".into()));
        for step in 1..=PATIENCE {
            let map = self.map();
            let (address, asking) = match redirected.take() {
                Some(redirected) => redirected,
                None => match map.owner(slot) {
                    Some(address) => (address.clone(), false),
                    None => {
                        tokio::time::sleep(PAUSE * (step - 1)).await;
                        self.refresh(&map).await?;
                        continue;
                    }
                },
            };
            let failure = match self.node(&address).call(request, asking).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            last = failure.clone();
            match failure.code() {
                Some("ASK") => redirected = Some((target(&failure, &address)?, true)),
                Some("MOVED") => {
                    redirected = Some((target(&failure, &address)?, false));
                    // The redirection is enough for this call; the map is for the next ones.
                    let _ = self.refresh(&map).await;
                }
                Some("TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "LOADING" | "READONLY") => {
                    tokio::time::sleep(PAUSE * step).await;
                    let _ = self.refresh(&map).await;
                }
                Some(_) => return Err(failure),
                None => {
                    // The node may be gone. If another one has its slots by now, the next call, or
                    // this one where nothing was sent, goes there.
                    let _ = self.refresh(&map).await;
                    let moved = self.map().owner(slot) != Some(&address);
                    if !(moved && matches!(failure, Failure::NotSent(_))) {
                        return Err(failure);
                    }
                }
            }
        }
        Err(last)
    }

    fn map(&self) -> Arc<Map> {
        // The lock is only ever held to swap a pointer.
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn node(&self, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes.entry(address.clone());
        node.or_insert_with(|| Arc::new(Node::at(address.clone(), self.setup.clone()))).clone()
    }

    /// Reads the map anew, unless somebody has done so since `seen` was read.
    async fn refresh(&self, seen: &Arc<Map>) -> Result<(), Failure> {
        let _one_at_a_time = self.refreshing.lock().await;
        if !Arc::ptr_eq(seen, &self.map()) {
            return Ok(());
        }
        let mut failure = Failure::misconfigured(Note("no node of the Cluster is given".into()));
        for address in seen.masters.iter().chain(&self.seeds) {
            match self.read_map(address).await {
                Ok(map) => {
                    let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                    nodes.retain(|address, _| map.masters.contains(address));
                    *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
                    return Ok(());
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn read_map(&self, address: &Address) -> Result<Map, Failure> {
        let read = async {
            // Not through the pool: a seed may be a replica, which the pool would refuse.
            let link = self.setup.dial(address, &self.setup.login).await?;
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            Map::parse(link.ask(command, self.setup.reply).await?, address)
        };
        let read = tokio::time::timeout(self.setup.connect, read).await;
        match read.unwrap_or_else(|elapsed| Err(Failure::not_sent(elapsed))) {
            Err(Failure::Lost(error)) => Err(Failure::NotSent(error)),
            // "ERR This instance has cluster support disabled"
            Err(Failure::Refused(error)) if error.code() == "ERR" => {
                Err(Failure::misconfigured(Note("the server is not part of a Cluster".into())))
            }
            read => read,
        }
    }
}

impl Map {
    fn owner(&self, slot: usize) -> Option<&Address> {
        self.masters.get(usize::from(self.owners.get(slot).copied().flatten()?))
    }

    /// Reads the answer to `CLUSTER SLOTS`: `[[first, last, [host, port, id, ...], replicas...], ...]`.
    /// An empty host means "the one you asked".
    fn parse(value: Value, asked: &Address) -> Result<Self, Failure> {
        let wrong = || unexpected("CLUSTER SLOTS");
        let Value::Array(ranges) = value else { return Err(wrong()) };
        let mut map = Self { masters: Vec::new(), owners: vec![None; SLOTS] };
        for range in ranges {
            let Value::Array(range) = range else { return Err(wrong()) };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &range[..] else {
                return Err(wrong());
            };
            let [host, Value::Int(port), ..] = &master[..] else { return Err(wrong()) };
            let host = match host {
                Value::BulkString(host) => std::str::from_utf8(host).map_err(|_| wrong())?,
                Value::SimpleString(host) => host,
                _ => "",
            };
            let address = resolve(host, u16::try_from(*port).map_err(|_| wrong())?, asked);
            let index = map.masters.iter().position(|known| *known == address).unwrap_or_else(|| {
                map.masters.push(address);
                map.masters.len() - 1
            });
            let slots = usize::try_from(*first).ok().zip(usize::try_from(*last).ok());
            let slots = slots.and_then(|(first, last)| map.owners.get_mut(first..=last)).ok_or_else(wrong)?;
            slots.fill(u16::try_from(index).ok());
        }
        Ok(map)
    }
}

fn resolve(host: &str, port: u16, asked: &Address) -> Address {
    match asked {
        Address::Tcp { host: asked, .. } if host.is_empty() || host == "?" => {
            Address::Tcp { host: asked.clone(), port }
        }
        _ => Address::Tcp { host: host.to_owned(), port },
    }
}

/// Where `MOVED 3999 127.0.0.1:6381` or `ASK ...` points.
fn target(failure: &Failure, asked: &Address) -> Result<Address, Failure> {
    let Failure::Refused(error) = failure else { return Err(failure.clone()) };
    let place = error.details().and_then(|details| details.split_ascii_whitespace().nth(1));
    let parsed =
        place.and_then(|place| place.rsplit_once(':')).and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parsed.map(|(host, port)| resolve(host, port, asked)).ok_or_else(|| unexpected("a redirected command"))
}

/// The slot of a key: CRC-16/XMODEM of the part in braces, if there is one.
fn slot(key: &[u8]) -> usize {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let length = key[open + 1..].iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &key[open + 1..open + 1 + length])
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    });
    usize::from(crc) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"a{foo}b"), slot(b"foo"));
        assert_eq!(slot(b"{}foo"), slot(b"{}foo"));
        assert_ne!(slot(b"{}foo"), slot(b"foo"));
    }
}

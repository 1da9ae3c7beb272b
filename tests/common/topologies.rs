//! Servers that work together: a Cluster, and a master with replicas and Sentinels.

use std::sync::Mutex;
use std::time::Duration;

use super::certificates::Certificates;
use super::servers::{RedisServer, eventually, free_port};

/// Three masters that share the slots.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
    tls: bool,
    /// One slot moves at a time.
    moving: Mutex<()>,
}

impl RedisCluster {
    pub const SLOTS: u16 = 16_384;

    pub fn start() -> Self {
        Self::launch(None)
    }

    /// The same over TLS, also between the nodes, which tell their names and not their addresses.
    pub fn with_tls(certificates: &Certificates) -> Self {
        Self::launch(Some(certificates))
    }

    fn launch(certificates: Option<&Certificates>) -> Self {
        let node = |_| {
            let bus = free_port();
            let mut settings = format!(
                "--appendonly yes --appendfsync no --cluster-enabled yes --cluster-port {bus} \
                 --cluster-node-timeout 2000"
            );
            if let Some(certificates) = certificates {
                settings += " --tls-cluster yes --cluster-announce-hostname localhost";
                settings += " --cluster-preferred-endpoint-type hostname --tls-auth-clients no ";
                settings += &certificates.settings(free_port());
            }
            RedisServer::with(&settings.split_whitespace().collect::<Vec<_>>())
        };
        let nodes: Vec<RedisServer> = (0..3).map(node).collect();
        let share = Self::SLOTS / nodes.len() as u16;
        for (index, node) in nodes.iter().enumerate() {
            let first = index as u16 * share;
            let last = if index + 1 == nodes.len() { Self::SLOTS - 1 } else { first + share - 1 };
            node.ask::<()>(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            // Each needs an epoch of its own, or they would argue about it for a while.
            node.ask::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
        }
        for node in &nodes[1..] {
            let bus = node.argument("--cluster-port").to_owned();
            nodes[0].ask::<()>(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.public_port()));
        }
        let cluster = Self { nodes, tls: certificates.is_some(), moving: Mutex::default() };
        eventually("all nodes know all slots", || {
            let ready = |node: &RedisServer| {
                let info: String = node.ask("CLUSTER INFO");
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            };
            cluster.nodes.iter().all(ready).then_some(())
        });
        cluster
    }

    pub fn url(&self) -> String {
        url(if self.tls { "rediss+cluster" } else { "redis+cluster" }, &self.nodes)
    }

    /// The node that has a slot, by its own word.
    pub fn owner(&self, slot: u16) -> usize {
        eventually("one node has the slot", || match self.owners(slot)[..] {
            [owner] => Some(owner),
            _ => None,
        })
    }

    fn owners(&self, slot: u16) -> Vec<usize> {
        let owns = |node: &RedisServer| {
            let nodes: String = node.ask("CLUSTER NODES");
            let myself = nodes.lines().find(|line| line.contains("myself")).expect("it knows itself").to_owned();
            myself.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.parse::<u16>().expect("a slot");
                (number(first)..=number(last)).contains(&slot)
            })
        };
        (0..self.nodes.len()).filter(|index| owns(&self.nodes[*index])).collect()
    }

    /// Moves a slot with all its keys, as resharding does it, while clients go on.
    pub fn move_slot(&self, slot: u16, to: usize) {
        let _one_at_a_time = self.moving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let from = self.owner(slot);
        if from == to {
            return;
        }
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let id = |node: &RedisServer| node.ask::<String>("CLUSTER MYID");
        let (source_id, target_id) = (id(source), id(target));
        target.ask::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"));
        source.ask::<()>(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"));
        loop {
            let keys: Vec<String> = source.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 10"));
            if keys.is_empty() {
                break;
            }
            for key in keys {
                source.ask::<String>(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", target.public_port()));
            }
        }
        // What the source told the others a moment before may come in between; then nobody has the slot
        // until it is said again.
        eventually("the slot has moved", || {
            for node in [target, source].into_iter().chain(&self.nodes) {
                node.ask::<()>(&format!("CLUSTER SETSLOT {slot} NODE {target_id}"));
            }
            (self.owners(slot) == [to]).then_some(())
        });
    }
}

/// A master, two replicas and three Sentinels.
pub struct Trio {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
    tls: bool,
}

impl Trio {
    pub const NAME: &str = "main";

    pub fn start() -> Self {
        Self::launch(None)
    }

    /// The same over TLS, also among themselves.
    pub fn with_tls(certificates: &Certificates) -> Self {
        Self::launch(Some(certificates))
    }

    fn launch(certificates: Option<&Certificates>) -> Self {
        let tls = || match certificates {
            None => String::new(),
            Some(all) => format!("--tls-replication yes --tls-auth-clients no {}", all.settings(free_port())),
        };
        let server = |more: &str| {
            let settings = format!(
                "--appendonly yes --appendfsync no --repl-diskless-sync-delay 0 \
                 --user replica on >replica +@all --masteruser replica --masterauth replica {} {more}",
                tls()
            );
            RedisServer::with(&settings.split_whitespace().collect::<Vec<_>>())
        };
        let mut servers = vec![server("")];
        let of = format!("--replicaof 127.0.0.1 {}", servers[0].public_port());
        servers.extend((0..2).map(|_| server(&of)));
        eventually("the replicas are in step", || {
            let up = |server: &RedisServer| server.ask::<String>("INFO replication").contains("master_link_status:up");
            servers[1..].iter().all(up).then_some(())
        });
        let sentinel = |_| {
            let tls = tls();
            let settings: Vec<&str> = tls.split_whitespace().collect();
            RedisServer::sentinel(Self::NAME, servers[0].public_port(), &settings)
        };
        let sentinels = (0..3).map(sentinel).collect();
        let trio = Self { servers, sentinels, tls: certificates.is_some() };
        eventually("the Sentinels know each other and the replicas", || {
            let knows = |sentinel: &RedisServer| {
                let info: String = sentinel.ask("INFO sentinel");
                info.contains("slaves=2,sentinels=3") && info.contains("status=ok")
            };
            trio.sentinels.iter().all(knows).then_some(())
        });
        trio
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss+sentinel" } else { "redis+sentinel" };
        format!("{}/{}", url(scheme, &self.sentinels), Self::NAME)
    }

    /// The server that the Sentinels call the master.
    pub fn master(&self) -> &RedisServer {
        let port = Self::named(&self.sentinels[0]);
        self.servers.iter().find(|server| server.public_port() == port).expect("it is one of ours")
    }

    fn named(sentinel: &RedisServer) -> u16 {
        let (_, port): (String, u16) = sentinel.ask(&format!("SENTINEL get-master-addr-by-name {}", Self::NAME));
        port
    }

    /// Cuts the master off its replicas, so that what it still stores is lost; kills it; waits until
    /// all Sentinels name another; starts it again and waits until all are in step.
    pub fn kill_master_and_bring_it_back(&self, dead: impl FnOnce()) {
        let old = self.master();
        self.cut_replicas_off(old);
        // Long enough for some to read what nobody acknowledges.
        std::thread::sleep(Duration::from_millis(600));
        old.kill_9();
        dead();
        self.wait_for_another_than(old);
        old.restart();
        self.wait_until_in_step();
    }

    /// Waits until all Sentinels name the same master and the others are its replicas. On a loaded machine
    /// they may have changed their mind once more.
    pub fn wait_until_in_step(&self) {
        eventually("one is the master, the others are in step", || {
            let named = Self::named(&self.sentinels[0]);
            let agreed = self.sentinels.iter().all(|sentinel| Self::named(sentinel) == named);
            let in_step = |server: &RedisServer| {
                let info: String = server.try_ask("INFO replication").unwrap_or_default();
                let master = format!("master_port:{named}\r\nmaster_link_status:up");
                if server.public_port() == named { info.contains("role:master") } else { info.contains(&master) }
            };
            (agreed && self.servers.iter().all(in_step)).then_some(())
        });
    }

    /// Waits until all Sentinels name another master.
    pub fn wait_for_another_than(&self, old: &RedisServer) {
        eventually("the Sentinels promote a replica", || {
            let names = |sentinel: &RedisServer| Self::named(sentinel) != old.public_port();
            self.sentinels.iter().all(names).then_some(())
        });
    }

    /// Waits until the Sentinels have made a replica of a server, and it is in step.
    pub fn wait_for_replica(&self, old: &RedisServer) {
        eventually("the old master is a replica in step", || {
            // The Sentinel that demotes it also ends its connections.
            let info: String = old.try_ask("INFO replication").ok()?;
            (info.contains("role:slave") && info.contains("master_link_status:up")).then_some(())
        });
    }

    /// From now on nothing more reaches the replicas of this master, until it starts again.
    pub fn cut_replicas_off(&self, master: &RedisServer) {
        master.ask::<()>("ACL SETUSER replica off");
        let _: i64 = master.ask("CLIENT KILL TYPE replica");
    }
}

fn url(scheme: &str, servers: &[RedisServer]) -> String {
    let hosts: Vec<String> = servers.iter().map(|server| format!("localhost:{}", server.public_port())).collect();
    format!("{scheme}://{}", hosts.join(","))
}

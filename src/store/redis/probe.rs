//! What an acknowledgement of a server is worth: read from the server, never assumed.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Cmd, Value};

use super::failure::{Failure, Note, of_client};
use super::link::{Link, Reply, Request};
use crate::store::{Durability, Location};

/// Whose word the store waits for before it calls a turn stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisAck {
    /// The master's own. What it is worth depends on its `appendonly` and `appendfsync`.
    #[default]
    Master,
    /// Also that many replicas' (`WAIT`): they have the turn in their memory.
    Replicas {
        /// How many.
        replicas: u32,
        /// How long they may take, on top of the reply deadline.
        within: Duration,
    },
    /// The master's disk and that many replicas' disks (`WAITAOF`; Redis 7.2 and Valkey).
    ///
    /// Slow: replicas tell of their disks once a second, the master with `appendfsync everysec` every
    /// 0.1 s (Valkey 9.1), and each of the store's connections carries one such write at a time.
    Disks {
        /// How many, besides the master.
        replicas: u32,
        /// How long they may take, on top of the reply deadline.
        within: Duration,
    },
}

impl RedisAck {
    /// Also this many replicas, within 500 ms.
    pub const fn replicas(replicas: u32) -> Self {
        Self::Replicas { replicas, within: Duration::from_millis(500) }
    }

    /// The master's disk and those of this many replicas, within 2 s.
    pub const fn disks(replicas: u32) -> Self {
        Self::Disks { replicas, within: Duration::from_secs(2) }
    }

    /// The command that waits for it, sent right behind the write.
    pub(super) fn command(self) -> Option<Cmd> {
        let mut command;
        match self {
            Self::Master => return None,
            Self::Replicas { replicas, within } => {
                command = redis::cmd("WAIT");
                command.arg(replicas).arg(within.as_millis() as u64);
            }
            Self::Disks { replicas, within } => {
                command = redis::cmd("WAITAOF");
                command.arg(1).arg(replicas).arg(within.as_millis() as u64);
            }
        }
        Some(command)
    }

    pub(super) fn within(self) -> Duration {
        match self {
            Self::Master => Duration::ZERO,
            Self::Replicas { within, .. } | Self::Disks { within, .. } => within,
        }
    }

    /// Asks on a fresh connection, which has written nothing to wait for: whether the server would
    /// do it at all.
    pub(super) async fn check(self, link: &Link, patience: Duration) -> Result<(), Failure> {
        let within = Duration::from_millis(1);
        let nobody = match self {
            Self::Master => Self::Master,
            Self::Replicas { .. } => Self::Replicas { replicas: 0, within },
            Self::Disks { .. } => Self::Disks { replicas: 0, within },
        };
        let Some(command) = nobody.command() else { return Ok(()) };
        match link.ask(command, patience).await {
            Err(failure @ Failure::Refused(_)) => Err(Failure::misconfigured(Note(format!(
                "the server or its ACL does not let this login wait for an acknowledgement: {failure}"
            )))),
            answer => answer.map(drop),
        }
    }

    /// Whether the answer to [`RedisAck::command`] says that all who were asked for have it.
    pub(super) fn satisfied(self, reply: &Reply) -> bool {
        match (self, &reply.confirmed) {
            (Self::Master, _) => true,
            (Self::Replicas { replicas, .. }, Some(Value::Int(have))) => *have >= i64::from(replicas),
            (Self::Disks { replicas, .. }, Some(Value::Array(have))) => {
                matches!(have[..], [Value::Int(local), Value::Int(n)] if local >= 1 && n >= i64::from(replicas))
            }
            _ => false,
        }
    }

    fn wanted_replicas(self) -> u64 {
        match self {
            Self::Master => 0,
            Self::Replicas { replicas, .. } | Self::Disks { replicas, .. } => replicas.into(),
        }
    }
}

/// What one server tells about itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    version: (u32, u32),
    master: bool,
    replicas: u64,
    /// Whether memory is bounded by evicting: `Some(policy)`.
    evicts: Option<String>,
    append_only: bool,
    fsync: Option<String>,
}

impl Facts {
    /// Asks a server. What the login may not read counts as the weaker answer.
    pub(super) async fn read(link: &Link, patience: Duration) -> Result<Self, Failure> {
        let mut config = redis::cmd("CONFIG");
        config.arg("GET").arg("appendfsync");
        let info = match link.call(&Request::new(redis::cmd("INFO")), false, patience).await {
            Ok(reply) => text(reply.value)?,
            Err(failure) if withheld(&failure) => String::new(),
            Err(failure) => return Err(failure),
        };
        let fsync = match link.call(&Request::new(config), false, patience).await {
            Ok(reply) => redis::from_redis_value::<HashMap<String, String>>(reply.value)
                .ok()
                .and_then(|mut config| config.remove("appendfsync")),
            Err(failure) if withheld(&failure) => None,
            Err(failure) => return Err(failure),
        };
        Ok(Self { fsync, ..Self::parse(&info) })
    }

    fn parse(info: &str) -> Self {
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let number = |name: &str| fields.get(name).and_then(|value| value.parse::<u64>().ok());
        let mut version = fields.get("redis_version").copied().unwrap_or_default().split('.').map(str::parse::<u32>);
        let mut part = || version.next().and_then(Result::ok).unwrap_or_default();
        let policy = fields.get("maxmemory_policy").copied().unwrap_or_default();
        let bounded = number("maxmemory").is_none_or(|bytes| bytes > 0);
        Self {
            version: (part(), part()),
            master: fields.get("role").is_none_or(|role| *role == "master"),
            replicas: number("connected_slaves").unwrap_or_default(),
            evicts: (bounded && policy != "noeviction").then(|| policy.to_owned()),
            append_only: number("aof_enabled") == Some(1),
            fsync: None,
        }
    }

    /// What a turn survives once the server, and whoever else is asked, has acknowledged it.
    pub(super) fn durability(&self, ack: RedisAck) -> Durability {
        if self.evicts.is_some() || !self.append_only {
            return Durability::Cache;
        }
        let replicas = ack.wanted_replicas();
        // The turn is on most of the hosts: a failover finds it.
        if replicas > 0 && 2 * (replicas + 1) > self.replicas + 1 {
            return Durability::Quorum;
        }
        match (ack, self.fsync.as_deref()) {
            (RedisAck::Disks { .. }, _) | (_, Some("always")) => Durability::Host,
            _ => Durability::Process,
        }
    }

    /// Refuses a server that cannot do what the store was told to do.
    pub(super) fn check(&self, ack: RedisAck, floor: Option<Durability>) -> Result<(), Failure> {
        let refuse = |why: String| Err(Failure::misconfigured(Note(why)));
        if !self.master {
            return Err(Failure::not_sent(Note("the server is a replica, not the master".into())));
        }
        // A login without INFO says version 0.0: the first script call will tell.
        if self.version != (0, 0) && self.version < (7, 0) {
            return refuse(format!(
                "the server has version {}.{}; 7.0 or newer is needed",
                self.version.0, self.version.1
            ));
        }
        if matches!(ack, RedisAck::Disks { .. }) && self.version != (0, 0) {
            if self.version < (7, 2) {
                return refuse("WAITAOF needs Redis 7.2 or Valkey".into());
            }
            if !self.append_only || self.fsync.as_deref() == Some("no") {
                return refuse("WAITAOF needs appendonly, and an appendfsync other than `no`".into());
            }
        }
        let durability = self.durability(ack);
        match floor {
            Some(floor) if durability < floor => refuse(format!(
                "an acknowledgement of this server is worth `{}`, and `{}` is required: {}",
                durability.as_str(),
                floor.as_str(),
                self.weakness()
            )),
            _ => Ok(()),
        }
    }

    /// Says at start-up what the operator may not know.
    pub(super) fn announce(&self, ack: RedisAck, location: Option<&Location>) {
        let durability = self.durability(ack).as_str();
        if let Some(policy) = &self.evicts {
            tracing::warn!(
                policy,
                durability,
                "redis evicts sessions when memory is full: acknowledged turns may vanish"
            );
        } else if !self.append_only {
            tracing::warn!(durability, "redis has appendonly off: a restart loses acknowledged turns");
        }
        let (location, at) = (location.map(Location::fingerprint), location.map(Location::words));
        tracing::info!(durability, replicas = self.replicas, location, at, "redis store connected");
    }

    fn weakness(&self) -> String {
        match (&self.evicts, self.append_only, self.fsync.as_deref()) {
            (Some(policy), _, _) => format!("maxmemory-policy is `{policy}`, so sessions may be evicted"),
            (None, false, _) => "appendonly is off".into(),
            (None, true, Some(fsync)) => format!("appendfsync is `{fsync}` and no replica is waited for"),
            (None, true, None) => "appendfsync may not be read and no replica is waited for".into(),
        }
    }
}

/// Where a connection of the application's leads, as the server calls itself; `None` when it does not tell.
pub(super) async fn location_of(link: &Link, prefix: &str, patience: Duration) -> Result<Option<Location>, Failure> {
    let mut command = redis::cmd("CLIENT");
    command.arg("INFO");
    let told = match link.call(&Request::new(command), false, patience).await {
        Ok(reply) => text(reply.value)?,
        Err(failure) if withheld(&failure) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let field = |name: &str| told.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let (Some(address), Some(db)) = (field("laddr"), field("db")) else { return Ok(None) };
    Ok(Some(Location::new(&format!("{address} db={db} prefix={prefix}"))))
}

/// Whether the server would not tell, as managed ones often do: the command is not for this login, or
/// has another name.
fn withheld(failure: &Failure) -> bool {
    matches!(failure.code(), Some("NOPERM" | "ERR"))
}

fn text(value: Value) -> Result<String, Failure> {
    redis::from_redis_value(value).map_err(|error| of_client(error.into(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(maxmemory: u64, policy: &str, aof: u8, fsync: &str, replicas: u64) -> Facts {
        let info = format!(
            "# Server\r\nredis_version:7.2.4\r\nmaxmemory:{maxmemory}\r\nmaxmemory_policy:{policy}\r\n\
             aof_enabled:{aof}\r\nrole:master\r\nconnected_slaves:{replicas}\r\n"
        );
        Facts { fsync: Some(fsync.into()), ..Facts::parse(&info) }
    }

    #[test]
    fn an_acknowledgement_is_worth_what_the_server_is_set_up_for() {
        use Durability::*;
        let level = |facts: Facts, ack| facts.durability(ack);
        let master = RedisAck::Master;
        assert_eq!(level(facts(0, "noeviction", 0, "always", 0), master), Cache);
        assert_eq!(level(facts(1, "allkeys-lru", 1, "always", 0), master), Cache);
        assert_eq!(level(facts(1, "volatile-ttl", 1, "always", 0), master), Cache, "sessions with a ttl may go");
        assert_eq!(level(facts(0, "allkeys-lru", 1, "everysec", 0), master), Process, "no limit, no eviction");
        assert_eq!(level(facts(1, "noeviction", 1, "everysec", 0), master), Process);
        assert_eq!(level(facts(1, "noeviction", 1, "always", 0), master), Host);
        assert_eq!(level(facts(0, "noeviction", 1, "everysec", 0), RedisAck::disks(0)), Host);
        assert_eq!(level(facts(0, "noeviction", 1, "no", 2), RedisAck::replicas(1)), Quorum);
        assert_eq!(level(facts(0, "noeviction", 1, "no", 4), RedisAck::replicas(1)), Process, "2 of 5");
        assert_eq!(level(facts(0, "noeviction", 0, "no", 2), RedisAck::replicas(2)), Cache, "a restart empties all");
        assert_eq!(level(Facts::default(), master), Cache, "nothing could be read");
    }

    #[test]
    fn a_server_below_the_floor_is_refused_with_the_reason() {
        let weak = facts(0, "noeviction", 1, "everysec", 0);
        assert!(weak.check(RedisAck::Master, Some(Durability::Process)).is_ok());
        let refused = weak.check(RedisAck::Master, Some(Durability::Host)).unwrap_err();
        assert!(refused.to_string().contains("appendfsync is `everysec`"), "{refused}");
        let old = Facts { version: (7, 0), ..facts(0, "noeviction", 1, "always", 0) };
        assert!(old.check(RedisAck::disks(0), None).is_err());
        for (append_only, fsync, fit) in
            [(1, "always", true), (1, "everysec", true), (1, "no", false), (0, "always", false)]
        {
            let facts = facts(0, "noeviction", append_only, fsync, 0);
            assert_eq!(facts.check(RedisAck::disks(0), None).is_ok(), fit, "{append_only} {fsync}");
        }
    }
}

//! Where the servers are, and who we are to them: what a URL says.

use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};

use super::failure::{Failure, Note};

/// One place to connect to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// How the servers work together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Topology {
    /// One server.
    Standalone,
    /// The addresses are Sentinels that know the master of this name.
    Sentinel { master: String },
    /// The addresses are some nodes of a Cluster.
    Cluster,
}

/// A parsed URL. It holds a password: no `Debug`.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) topology: Topology,
    pub(super) addresses: Vec<Address>,
    pub(super) tls: bool,
    pub(super) login: RedisConnectionInfo,
}

impl Target {
    /// Reads `scheme://[user[:password]@]host[:port][,host[:port]...][/path][?protocol=resp3]`; the
    /// library's own parser reads each single host's URL, so its escapes and options hold here too.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let (scheme, rest) = url.split_once(':').ok_or_else(|| wrong("it has no scheme"))?;
        let (topology, tls) = match scheme {
            "redis" | "valkey" => (Topology::Standalone, false),
            "rediss" | "valkeys" => (Topology::Standalone, true),
            "redis+cluster" | "valkey+cluster" => (Topology::Cluster, false),
            "rediss+cluster" | "valkeys+cluster" => (Topology::Cluster, true),
            "redis+sentinel" | "valkey+sentinel" => (Topology::Sentinel { master: String::new() }, false),
            "rediss+sentinel" | "valkeys+sentinel" => (Topology::Sentinel { master: String::new() }, true),
            "unix" | "redis+unix" | "valkey+unix" => return Self::parse_single(&format!("redis+unix:{rest}"), false),
            _ => return Err(wrong("its scheme is not one of redis, rediss, unix, redis+sentinel, redis+cluster")),
        };
        let rest = rest.strip_prefix("//").ok_or_else(|| wrong("its scheme is not followed by ://"))?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains('#') {
            return Err(wrong("TLS without verification is not offered: give the builder your own CA"));
        }
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let (topology, tail) = match topology {
            Topology::Sentinel { .. } => {
                let (path, query) = tail.split_at(tail.find('?').unwrap_or(tail.len()));
                let (master, db) = path.trim_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
                if master.is_empty() {
                    return Err(wrong("it does not name the master: redis+sentinel://host:26379/mymaster"));
                }
                (Topology::Sentinel { master: master.to_owned() }, format!("/{db}{query}"))
            }
            other => (other, tail.to_owned()),
        };
        let default_port = if matches!(topology, Topology::Sentinel { .. }) { ":26379" } else { "" };
        let mut target: Option<Self> = None;
        for host in hosts.split(',') {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
            let port = if has_port { "" } else { default_port };
            let one = Self::parse_single(&format!("redis://{user}{host}{port}{tail}"), tls)?;
            match &mut target {
                None => target = Some(Self { topology: topology.clone(), ..one }),
                Some(target) => target.addresses.extend(one.addresses),
            }
        }
        let target = target.ok_or_else(|| wrong("it names no host"))?;
        if target.addresses.len() > 1 && target.topology == Topology::Standalone {
            return Err(wrong("several hosts need the scheme redis+sentinel or redis+cluster"));
        }
        if target.topology == Topology::Cluster && target.login.db() != 0 {
            return Err(wrong("a Cluster has database 0 only"));
        }
        Ok(target)
    }

    fn parse_single(url: &str, tls: bool) -> Result<Self, Failure> {
        let info = url.into_connection_info().map_err(Failure::misconfigured)?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port },
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            _ => return Err(wrong("its address is of an unknown kind")),
        };
        let login = info.redis_settings().clone();
        let login = login.set_lib_name("tower-session-memory", env!("CARGO_PKG_VERSION"));
        Ok(Self { topology: Topology::Standalone, addresses: vec![address], tls, login })
    }
}

/// Says what is wrong with the URL without repeating it: it may hold a password.
fn wrong(why: &str) -> Failure {
    Failure::misconfigured(Note(format!("the Redis URL is wrong: {why}")))
}

#[cfg(test)]
mod tests {
    use redis::ProtocolVersion;

    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn a_url_says_where_and_who() {
        let target = Target::parse("rediss://ada:p%40ss@[::1]:7000/3?protocol=resp3").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(target.addresses, [tcp("::1", 7000)]);
        assert!(target.tls);
        assert_eq!((target.login.username(), target.login.password()), (Some("ada"), Some("p@ss")));
        assert_eq!((target.login.db(), target.login.protocol()), (3, ProtocolVersion::RESP3));

        let target = Target::parse("redis://localhost").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((target.topology, target.addresses), (Topology::Standalone, vec![tcp("localhost", 6379)]));
    }

    #[test]
    fn sockets_sentinels_and_clusters() {
        let target = Target::parse("unix:///run/redis.sock?db=2&pass=x").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(target.addresses, [Address::Unix("/run/redis.sock".into())]);
        assert_eq!((target.login.db(), target.login.password()), (2, Some("x")));

        let target = Target::parse("redis+sentinel://:x@a,b:1,[::1]/main/4").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(target.topology, Topology::Sentinel { master: "main".into() });
        assert_eq!(target.addresses, [tcp("a", 26379), tcp("b", 1), tcp("::1", 26379)]);
        assert_eq!(target.login.db(), 4);

        let target = Target::parse("redis+cluster://a:1,b:2").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((target.topology, target.addresses), (Topology::Cluster, vec![tcp("a", 1), tcp("b", 2)]));
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        for url in [
            "canary",
            "http://canary",
            "redis:canary",
            "redis://canary,canary2",
            "redis+sentinel://canary",
            "redis+cluster://canary/1",
            "rediss://canary/#insecure",
            "redis://user:canary@host/notanumber",
        ] {
            let Err(failure) = Target::parse(url) else { panic!("{url} was taken") };
            assert!(!format!("{failure} {failure:?}").contains("canary"), "{failure:?}");
        }
    }
}

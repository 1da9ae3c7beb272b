//! The scripts, called by their hash and sent whole to a server that does not know them yet.

use redis::{Cmd, Value};

use super::failure::Failure;
use super::link::{Reply, Request};
use super::servers::Servers;

/// A script and the hash that servers know it by.
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    fn new(source: impl Into<String>) -> Self {
        let source = source.into();
        let hash = redis::Script::new(&source).get_hash().to_owned();
        Self { source, hash }
    }
}

pub(super) struct Scripts {
    pub(super) append: Script,
    pub(super) load: Script,
    pub(super) delete: Script,
    /// The same, allowed to run when `maxmemory` is reached: deleting is how one gets out of that.
    pub(super) delete_when_full: Script,
    pub(super) index: Script,
    pub(super) mend: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let delete = include_str!("lua/delete.lua");
        let (newest, note) = (include_str!("lua/newest.lua"), include_str!("lua/note.lua"));
        Self {
            append: Script::new(format!("{newest}{note}{}", include_str!("lua/append.lua"))),
            load: Script::new(format!("{newest}{}", include_str!("lua/load.lua"))),
            delete: Script::new(delete),
            delete_when_full: Script::new(format!("#!lua flags=allow-oom\n{delete}")),
            index: Script::new(format!("{note}{}", include_str!("lua/index.lua"))),
            mend: Script::new(include_str!("lua/mend.lua")),
        }
    }
}

/// One call of a script. The first key decides which server runs it.
pub(super) struct Call<'a> {
    pub(super) script: &'a Script,
    pub(super) keys: &'a [&'a [u8]],
    pub(super) confirm: Option<Cmd>,
    /// About how many bytes its arguments have.
    pub(super) size: usize,
}

impl Call<'_> {
    /// Runs it. A server that was restarted, flushed or promoted may not know the script: then it
    /// has run nothing, and gets the source.
    pub(super) async fn run(self, servers: &Servers, arguments: impl Fn(&mut Cmd)) -> Result<Reply, Failure> {
        let Self { script, keys, confirm, size } = self;
        let request = |verb: &str, what: &[u8]| {
            let mut command = Cmd::with_capacity(16, size + what.len() + 256);
            command.arg(verb).arg(what).arg(keys.len()).arg(keys);
            arguments(&mut command);
            Request { command, confirm: confirm.clone() }
        };
        let first = servers.call(keys[0], &request("EVALSHA", script.hash.as_bytes())).await;
        match first {
            Err(failure) if failure.code() == Some("NOSCRIPT") => {
                servers.call(keys[0], &request("EVAL", script.source.as_bytes())).await
            }
            answer => answer,
        }
    }
}

/// The elements of a script's answer.
pub(super) fn elements(value: Value) -> Result<Vec<Value>, Failure> {
    match value {
        Value::Array(elements) => Ok(elements),
        _ => Err(super::link::unexpected("a script")),
    }
}

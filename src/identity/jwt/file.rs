//! Keys in a file that somebody else keeps up to date.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::Algorithm;
use sha2::{Digest, Sha256};

use super::builder::JwtError;
use super::keys::KeySet;

/// How often the file is looked at, at most.
const EVERY: Duration = Duration::from_secs(1);
/// A file that was changed less than this before it was read may change again within the same tick
/// of its file system's clock: it is read once more.
const TICK: Duration = Duration::from_secs(2);
/// The most bytes of a set of keys.
const MAX_BYTES: u64 = 1 << 20;

/// The keys of a file, as of a moment ago.
pub(super) struct KeyFile {
    path: PathBuf,
    algorithms: Vec<Algorithm>,
    opened: Instant,
    /// When the file was looked at last, in milliseconds since `opened`.
    looked: AtomicU64,
    held: RwLock<Held>,
}

struct Held {
    keys: Arc<KeySet>,
    /// The file as it was read last; `None` to read it again.
    seen: Option<Seen>,
    digest: [u8; 32],
    failing: bool,
}

type Seen = (SystemTime, u64);

impl KeyFile {
    pub(super) fn open(path: PathBuf, algorithms: Vec<Algorithm>) -> Result<Self, JwtError> {
        let (document, seen) = read(&path).map_err(JwtError::File)?;
        let keys = Arc::new(KeySet::of_document(&document, &algorithms)?);
        let held = RwLock::new(Held { keys, seen, digest: Sha256::digest(&document).into(), failing: false });
        Ok(Self { path, algorithms, opened: Instant::now(), looked: AtomicU64::new(0), held })
    }

    /// The keys, read again if the file changed. One caller a second looks; nobody waits for it.
    pub(super) fn current(&self) -> Arc<KeySet> {
        let now = self.opened.elapsed().as_millis() as u64;
        let looked = self.looked.load(Ordering::Relaxed);
        let due = now.saturating_sub(looked) >= EVERY.as_millis() as u64;
        if due && self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.look();
        }
        self.held.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    fn look(&self) {
        let known = self.held.read().unwrap_or_else(PoisonError::into_inner).seen;
        if known.is_some() && std::fs::metadata(&self.path).ok().and_then(|metadata| seen(&metadata)) == known {
            return;
        }
        let fresh = read(&self.path).map_err(JwtError::File).and_then(|(document, seen)| {
            let keys = KeySet::of_document(&document, &self.algorithms)?;
            Ok((keys, seen, Sha256::digest(&document).into()))
        });
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        match fresh {
            Ok((keys, seen, digest)) => {
                if held.digest != digest || held.failing {
                    tracing::info!(keys = keys.len(), "token keys read again: their file changed");
                }
                *held = Held { keys: Arc::new(keys), seen, digest, failing: false };
            }
            Err(error) => {
                if !held.failing {
                    tracing::error!(%error, "token keys not read again: the old ones stay in use");
                }
                held.failing = true;
                held.seen = None;
            }
        }
    }
}

fn read(path: &PathBuf) -> Result<(Vec<u8>, Option<Seen>), Error> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut document = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut document)?;
    if document.len() as u64 > MAX_BYTES {
        return Err(Error::new(ErrorKind::FileTooLarge, "larger than a set of keys may be"));
    }
    let settled = |(changed, _): &Seen| changed.elapsed().is_ok_and(|age| age >= TICK);
    Ok((document, seen(&metadata).filter(settled)))
}

fn seen(metadata: &Metadata) -> Option<Seen> {
    Some((metadata.modified().ok()?, metadata.len()))
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("KeyFile").field("keys", &held.keys).finish_non_exhaustive()
    }
}

//! The pending buffer under a model checker: every interleaving of its threads, not some.
#![allow(dead_code, unreachable_pub, reason = "the file under test is compiled here by itself")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;

use self::pending::{Pending, Seal};

/// What the file locks with, here.
mod sync {
    pub(super) use std::sync::PoisonError;

    pub(super) use loom::sync::{Mutex, MutexGuard};
}

#[path = "../src/session/pending.rs"]
mod pending;

type Buffer = Vec<u8>;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn shared() -> loom::sync::Arc<Pending<Buffer, usize>> {
    loom::sync::Arc::new(Pending::new(Buffer::new()))
}

/// Seals and settles with the number of messages that the seal took; what the commit's driver does.
fn commit(pending: &Pending<Buffer, usize>) -> bool {
    match pending.seal() {
        Seal::Mine(buffer) => {
            pending.settle(buffer.len());
            true
        }
        Seal::Theirs | Seal::Settled(_) => false,
    }
}

#[test]
fn a_message_is_in_the_turn_or_its_writer_is_told() {
    loom::model(|| {
        let pending = shared();
        let writers: Vec<_> = (0..2)
            .map(|message| {
                let pending = pending.clone();
                thread::spawn(move || pending.with_open(|buffer| buffer.push(message)).is_some())
            })
            .collect();
        let mine = commit(&pending);
        let accepted = writers.into_iter().map(|writer| writer.join().expect("joins")).filter(|told| *told).count();
        assert!(mine);
        assert_eq!(pending.seal(), Seal::Settled(accepted));
    });
}

#[test]
fn of_all_who_seal_one_gets_the_buffer_and_all_get_its_result() {
    loom::model(|| {
        let pending = shared();
        pending.with_open(|buffer| buffer.push(1));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let pending = pending.clone();
                thread::spawn(move || commit(&pending))
            })
            .collect();
        let mine = usize::from(commit(&pending));
        let theirs = others.into_iter().map(|other| other.join().expect("joins")).filter(|mine| *mine).count();
        assert_eq!(mine + theirs, 1);
        assert_eq!(pending.seal(), Seal::Settled(1));
    });
}

#[test]
fn whoever_waits_is_woken_or_finds_it_ready() {
    loom::model(|| {
        let pending = shared();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let driver = {
            let pending = pending.clone();
            thread::spawn(move || commit(&pending))
        };
        let first = pending.poll_settled(&mut Context::from_waker(&waker));
        assert!(driver.join().expect("joins"));
        match first {
            Poll::Ready(result) => assert_eq!(result, 0),
            Poll::Pending => {
                assert_eq!(woken.0.load(Ordering::SeqCst), 1, "a wake-up was lost");
                assert_eq!(pending.poll_settled(&mut Context::from_waker(&waker)), Poll::Ready(0));
            }
        }
    });
}

#[test]
fn the_last_writer_and_the_deadline_are_noticed() {
    loom::model(|| {
        let pending = shared();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let writer = {
            let pending = pending.clone();
            thread::spawn(move || {
                pending.with_open(|buffer| buffer.push(1));
                pending.close_writers();
            })
        };
        let clock = {
            let pending = pending.clone();
            thread::spawn(move || pending.expire())
        };
        let cx = &mut Context::from_waker(&waker);
        let (gone, expired) = (pending.poll_writers_gone(cx), pending.poll_expired(cx));
        writer.join().expect("joins");
        clock.join().expect("joins");
        assert!(gone.is_ready() || expired.is_ready() || woken.0.load(Ordering::SeqCst) > 0, "a wake-up was lost");
        assert!(pending.poll_writers_gone(cx).is_ready() && pending.poll_expired(cx).is_ready());
        assert!(pending.writers_are_gone());
        // Writers that are gone have written: the seal takes it all.
        assert_eq!(pending.seal(), Seal::Mine(vec![1]));
    });
}

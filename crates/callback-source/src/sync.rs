//! Synchronization primitives that requests and the refresher share.
//!
//! The package `interleavings` replaces these primitives with those of `shuttle`. `shuttle` runs the tests of that
//! package in thousands of schedules. In `shuttle`, every memory ordering is sequentially consistent. The library
//! therefore uses only `SeqCst` for these primitives.

#[cfg(callback_source_interleavings)]
pub(crate) use self::interleaved::ArcSwap;
#[cfg(not(callback_source_interleavings))]
pub(crate) use arc_swap::ArcSwap;
#[cfg(callback_source_interleavings)]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};
#[cfg(not(callback_source_interleavings))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(callback_source_interleavings)]
mod interleaved {
    use std::sync::{Arc, PoisonError};

    use super::Mutex;

    /// Replacement for `arc_swap::ArcSwap` that lets `shuttle` switch threads at every access.
    #[derive(Debug)]
    pub(crate) struct ArcSwap<T> {
        current: Mutex<Arc<T>>,
    }

    impl<T> ArcSwap<T> {
        pub(crate) fn from_pointee(current: T) -> Self {
            let current = Mutex::new(Arc::new(current));
            Self { current }
        }

        pub(crate) fn store(&self, new: Arc<T>) {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }

        pub(crate) fn load(&self) -> Arc<T> {
            self.load_full()
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            let current = self.current.lock();
            Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
        }
    }
}

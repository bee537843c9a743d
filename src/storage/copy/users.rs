//! Works on some users at a time, so that the way to the cluster and back is not waited for one by one.

use iris_shards::id::UserId;
use tokio::task::{JoinSet, LocalSet};

use super::{CopyError, Summary, Watch};

/// Users at a time: each has a page of bodies in memory at most.
const USERS_MAX: usize = 32;

/// Does something for each user, and adds up. Ends with the first failure.
pub(super) async fn each_user<F>(
    what: &str,
    users: &[UserId],
    watch: Watch<'_>,
    work: impl Fn(UserId) -> F,
) -> Result<Summary, CopyError>
where
    F: Future<Output = Result<Summary, CopyError>> + 'static,
{
    let (mut under_way, mut sum, mut done) = (JoinSet::new(), Summary::default(), 0);
    let (thread, mut waiting) = (LocalSet::new(), users.iter());
    loop {
        while under_way.len() < USERS_MAX
            && let Some(user) = waiting.next()
        {
            under_way.spawn_local_on(work(user.clone()), &thread);
        }
        let Some(result) = thread.run_until(under_way.join_next()).await else { return Ok(sum) };
        sum = sum.and(result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
        done += 1;
        watch(what, done, users.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StorageError;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn users(count: usize) -> Vec<UserId> {
        (0..count).map(|n| UserId::parse(format!("user-{n}").as_bytes()).unwrap()).collect()
    }

    fn run(work: impl Future<Output = Result<Summary, CopyError>>) -> Result<Summary, CopyError> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn everybody_is_done_once_and_few_at_a_time() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |_| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::Relaxed);
                Ok(Summary { copied: 1, ..Summary::default() })
            }
        };
        let mut seen = Vec::new();
        let sum = run(each_user("counting", &users(100), &mut |_, done, all| seen.push((done, all)), work)).unwrap();
        assert_eq!((sum.copied, seen.last()), (100, Some(&(100, 100))));
        assert_eq!(most.load(Ordering::Relaxed), USERS_MAX);
    }

    #[test]
    fn a_failure_ends_it() {
        let work = |user: UserId| async move {
            match user.as_str() {
                "user-7" => Err(StorageError::NoLog { path: "x".into() }.into()),
                _ => Ok(Summary::default()),
            }
        };
        assert!(run(each_user("failing", &users(50), &mut |_, _, _| {}, work)).is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Tokens of service accounts, judged by the API server (`TokenReview`) each time they are shown.
//!
//! What it said is kept only for the time when it cannot be asked: then whoever was known may go on reading.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kubernetes::{Account, Api, ReviewError, review};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{Authenticate, Caller, Unauthenticated};
use crate::live::Live;

/// A judgement is remembered for so long; tokens of pods live about as long.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// One token per node, and the new ones of a renewal.
const MOST: usize = 20_000;

type TokenDigest = [u8; 32];

/// See the module.
#[derive(Debug)]
pub(crate) struct Reviews {
    api: Api,
    audience: String,
    /// Says on which node a pod runs, where the token does not.
    live: Arc<Live>,
    /// By the digest of the token: nothing here is a token.
    judged: Mutex<HashMap<TokenDigest, (Caller, Instant)>>,
}

impl Reviews {
    pub(crate) fn new(api: Api, audience: String, live: Arc<Live>) -> Self {
        Self { api, audience, live, judged: Mutex::default() }
    }

    fn caller(&self, account: Account) -> Caller {
        let Account { namespace, name, node, pod } = account;
        // Before 1.30 a token names its pod only.
        let node = node.map(Into::into).or_else(|| {
            let (pod, uid) = pod?;
            self.live.read(|world| world.objects().node_of(&namespace, &pod, &uid))
        });
        Caller { namespace: namespace.into(), service_account: name.into(), node }
    }

    fn remember(&self, token: &str, caller: Option<&Caller>) {
        let (digest, now) = (digest(token), Instant::now());
        let mut judged = self.judged.lock();
        let Some(caller) = caller else {
            judged.remove(&digest);
            return;
        };
        if judged.len() >= MOST && !judged.contains_key(&digest) {
            judged.retain(|_, (_, at)| now.duration_since(*at) < REMEMBERED);
            if judged.len() >= MOST {
                return;
            }
        }
        judged.insert(digest, (caller.clone(), now));
    }
}

impl Authenticate for Reviews {
    async fn authenticate(&self, token: &str) -> Result<Caller, Unauthenticated> {
        match review(&self.api, token, &self.audience).await {
            Ok(account) => {
                let caller = self.caller(account);
                self.remember(token, Some(&caller));
                Ok(caller)
            }
            Err(ReviewError::Api(error)) => Err(Unauthenticated::Unavailable { reason: error.to_string() }),
            Err(refused) => {
                self.remember(token, None);
                Err(Unauthenticated::Refused { reason: refused.to_string() })
            }
        }
    }

    fn recall(&self, token: &str) -> Option<Caller> {
        let judged = self.judged.lock();
        let (caller, at) = judged.get(&digest(token))?;
        (at.elapsed() < REMEMBERED).then(|| caller.clone())
    }
}

fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token).into()
}

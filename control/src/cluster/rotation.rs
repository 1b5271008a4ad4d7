// SPDX-License-Identifier: Apache-2.0
//! Our own root is replaced before it ends, or when somebody asks for it, so that nobody ever meets a root that it does not
//! believe in:
//!
//! ```text
//!   announced: both roots are believed, the old one signs ─► switched: the new one signs ─► finished: only it is believed
//! ```
//! Each step waits until every certificate has been renewed since the one before. The Secret holds where it is.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kubernetes::{Leadership, Secret};
use mesh::TrustDomain;
use runtime::Shutdown;

use super::roots::{CERTIFICATE, KEY, OWN, ROOTS, Roots};
use crate::ca::{Root, RootError};

const NEXT_CERTIFICATE: &str = "next-ca-cert.pem";
const NEXT_KEY: &str = "next-ca-key.pem";
/// When the last step was made.
const SINCE: &str = "rotation-since";
/// Whoever adds this key, with any value, asks for a new root.
const ASKED: &str = "rotate";
/// How often is looked whether a step is due.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Replaces the root in time.
#[derive(Debug)]
pub(crate) struct Rotation {
    pub(crate) roots: Roots,
    pub(crate) leadership: Leadership,
    /// How long each step waits.
    pub(crate) overlap: Duration,
}

/// The texts of the Secret.
type Texts = BTreeMap<String, String>;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Announce,
    Switch,
    Finish,
}

impl Rotation {
    /// Makes the steps that are due, until the process is asked to finish.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let pause = LONGEST_PAUSE.min(self.overlap / 8);
        let following = async {
            loop {
                self.leadership.won().await;
                if let Err(error) = self.look().await {
                    tracing::warn!(error = format!("{error:#}"), "the root was not rotated");
                }
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = following => {}
            () = shutdown.requested() => {}
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        let Roots { api, namespace, trust_domain, .. } = &self.roots;
        let Some(mut secret) = Secret::find(api, namespace, OWN).await? else { return Ok(()) };
        let now = Timestamp::now();
        let Some(step) = due(&secret.texts, self.overlap, now) else { return Ok(()) };
        make(step, &mut secret.texts, trust_domain, now)?;
        secret.replace(api).await?;
        tracing::info!(?step, ?secret, "the root is being rotated");
        Ok(())
    }
}

/// The step that is due.
fn due(texts: &Texts, overlap: Duration, now: Timestamp) -> Option<Step> {
    let since: Option<Timestamp> = texts.get(SINCE).and_then(|text| text.parse().ok());
    if let Some(since) = since {
        let waited = Duration::try_from(now.duration_since(since)).is_ok_and(|waited| waited >= overlap);
        let next = if texts.contains_key(NEXT_CERTIFICATE) { Step::Switch } else { Step::Finish };
        return waited.then_some(next);
    }
    let old = texts.get(CERTIFICATE).is_some_and(|pem| Root::is_old(pem, now.into()));
    (old || texts.contains_key(ASKED)).then_some(Step::Announce)
}

fn make(step: Step, texts: &mut Texts, trust_domain: &TrustDomain, now: Timestamp) -> Result<(), RootError> {
    match step {
        Step::Announce => {
            let next = Root::generate(trust_domain, SystemTime::from(now))?;
            let old = texts.get(CERTIFICATE).cloned().unwrap_or_default();
            texts.insert(ROOTS.to_owned(), format!("{}\n{}", old.trim_end(), next.certificate));
            texts.insert(NEXT_CERTIFICATE.to_owned(), next.certificate);
            texts.insert(NEXT_KEY.to_owned(), next.key);
            texts.remove(ASKED);
            texts.insert(SINCE.to_owned(), now.to_string());
        }
        Step::Switch => {
            for (from, to) in [(NEXT_CERTIFICATE, CERTIFICATE), (NEXT_KEY, KEY)] {
                if let Some(text) = texts.remove(from) {
                    texts.insert(to.to_owned(), text);
                }
            }
            texts.insert(SINCE.to_owned(), now.to_string());
        }
        Step::Finish => {
            let only = texts.get(CERTIFICATE).cloned().unwrap_or_default();
            texts.insert(ROOTS.to_owned(), only);
            texts.remove(SINCE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Material;

    const OVERLAP: Duration = Duration::from_secs(3600);

    fn root(texts: &Texts, now: Timestamp) -> Root {
        let text = |key: &str| texts.get(key).cloned().unwrap_or_default();
        let material = Material {
            origin: "a test".to_owned(),
            certificate: text(CERTIFICATE),
            key: text(KEY),
            chain: String::new(),
            roots: text(ROOTS),
        };
        Root::of(&material, &TrustDomain::parse("cluster.local").unwrap(), now.into()).unwrap()
    }

    #[test]
    fn at_every_moment_what_signs_was_believed_for_a_whole_overlap() {
        let trust_domain = TrustDomain::parse("cluster.local").unwrap();
        let mut now = Timestamp::now();
        let made = Root::generate(&trust_domain, now.into()).unwrap();
        let first = made.certificate.clone();
        let mut texts: Texts = [(CERTIFICATE, made.certificate), (KEY, made.key), (ROOTS, made.roots)]
            .map(|(key, text)| (key.to_owned(), text))
            .into();
        assert_eq!(due(&texts, OVERLAP, now), None);
        texts.insert(ASKED.to_owned(), "now".to_owned());
        let mut before = root(&texts, now).bundle().to_owned();
        for expected in [Step::Announce, Step::Switch, Step::Finish] {
            assert_eq!(due(&texts, OVERLAP, now), Some(expected));
            make(expected, &mut texts, &trust_domain, now).unwrap();
            // Whoever has not heard of this step believes what signs now, and the other way round.
            let signing = texts[CERTIFICATE].trim().to_owned();
            assert!(expected == Step::Announce || before.contains(&signing), "{expected:?}");
            before = root(&texts, now).bundle().to_owned();
            assert_eq!(due(&texts, OVERLAP, now), None, "it waits");
            now += Duration::from_secs(3601);
        }
        assert_eq!(due(&texts, OVERLAP, now), None, "it is over");
        assert!(!before.contains(first.trim()) && texts[CERTIFICATE] != first);
        let nearly_over = now + Duration::from_secs(9 * 365 * 24 * 3600);
        assert_eq!(due(&texts, OVERLAP, nearly_over), Some(Step::Announce), "before it ends, by itself");
    }
}

// SPDX-License-Identifier: Apache-2.0
//! `ambit bypass`: a namespace leaves the mesh for a while. What is written are annotations and an event; the node agents
//! honour the annotations until their end, whether this program runs or not.

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use jiff::{SignedDuration, Timestamp, Unit};
use kubernetes::{Api, Resource, Within};
use membership::bypass::{ANNOTATIONS, Bypass, LONGEST};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{arguments::To, exit::Outcome, output::show, reach, say, tree};

const NAMESPACES: Resource = Resource::core("namespaces");
const EVENTS: Resource = Resource::core("events");
const WHO: Resource = Resource::new("authentication.k8s.io", "v1", "selfsubjectreviews");
const COMPONENT: &str = "ambit-cli";

/// `ambit bypass`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["lasts", "end"])))]
pub(crate) struct BypassCommand {
    /// The namespace
    name: String,
    /// For how long, such as 30m or 2h; at most 24h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasts: Option<SignedDuration>,
    /// Why; it is written down
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// End it now
    #[arg(long)]
    end: bool,
}

#[derive(Debug, Serialize)]
struct Written {
    namespace: String,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    text: String,
}

impl BypassCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        if self.name == to.home() || self.name == "kube-system" {
            bail!("{} is never in the mesh", self.name);
        }
        let api = reach::open(to).await?;
        let by = who(&api).await;
        let now = Timestamp::now().round(Unit::Second).context("the clock cannot be used")?;
        let written = match self.lasts {
            Some(lasts) => {
                let reason = self.reason.clone().unwrap_or_else(|| "none was given".to_owned());
                let until = now.checked_add(lasts).context("the clock cannot be used")?;
                self.begin(&api, Bypass { since: now, until, by, reason }).await?
            }
            None => self.end(&api, by).await?,
        };
        show(to.output, &written, |written| written.text.clone() + "\n")?;
        Ok(Outcome::Well)
    }

    async fn begin(&self, api: &Api, bypass: Bypass) -> anyhow::Result<Written> {
        let name = &self.name;
        let found: Value =
            api.get(&NAMESPACES.object("", name)).await.context("cannot read the namespace")?;
        let labels = tree::map(&found, "/metadata/labels");
        if labels.get("istio.io/dataplane-mode").is_none_or(|mode| mode != "ambient") {
            say::note(&format!(
                "{name} has no label istio.io/dataplane-mode=ambient: only pods that have it themselves leave the mesh"
            ));
        }
        self.annotate(api, &json!(bypass.annotations())).await?;
        self.event(api, ("Warning", "BypassBegun"), &bypass.to_string()).await;
        say::note(
            "its connections through the mesh are cut now, and go in the open until then; who requires mutual TLS refuses it",
        );
        let text = format!("namespace {name} is {bypass}\nearlier: ambit bypass {name} --end");
        Ok(Written { namespace: name.clone(), by: bypass.by, until: Some(bypass.until), text })
    }

    async fn end(&self, api: &Api, by: String) -> anyhow::Result<Written> {
        let nothing: serde_json::Map<_, _> =
            ANNOTATIONS.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        self.annotate(api, &Value::Object(nothing)).await?;
        let text = format!("the bypass of namespace {} was ended by {by}", self.name);
        self.event(api, ("Normal", "BypassEnded"), &text).await;
        Ok(Written { namespace: self.name.clone(), by, until: None, text })
    }

    async fn annotate(&self, api: &Api, annotations: &Value) -> anyhow::Result<()> {
        let change = json!({"metadata": {"annotations": annotations}});
        let path = NAMESPACES.object("", &self.name);
        api.merge(&path, COMPONENT, &change).await.context("cannot annotate the namespace")?;
        Ok(())
    }

    /// For the record. The annotations are what counts, so a bypass without an event is one.
    async fn event(&self, api: &Api, (kind, reason): (&str, &str), message: &str) {
        let (name, now) = (&self.name, Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": format!("{name}.bypass-"), "namespace": name},
            "involvedObject": {"apiVersion": "v1", "kind": "Namespace", "namespace": name, "name": name},
            "type": kind,
            "reason": reason,
            "message": message.chars().take(1024).collect::<String>(),
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": COMPONENT,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        });
        let path = EVENTS.path(&Within::Namespace(name.clone()));
        if let Err(error) = api.create::<Value>(&path, &event).await {
            say::note(&format!("no event could be written: {error}"));
        }
    }
}

/// Who we are to the API server, which is who it will have been.
async fn who(api: &Api) -> String {
    let question = json!({"apiVersion": WHO.api_version(), "kind": "SelfSubjectReview"});
    let answer = api.create::<Value>(&WHO.path(&Within::Cluster), &question).await;
    let name = answer.map(|answer| tree::text(&answer, "/status/userInfo/username")).unwrap_or_default();
    if name.is_empty() { "somebody unknown to the API server".to_owned() } else { name }
}

/// `30m`, `2h`, `1h30m`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let lasts: SignedDuration = text.parse().map_err(|error| format!("{error}; write 30m or 2h"))?;
    if lasts > LONGEST || lasts < SignedDuration::from_secs(1) {
        return Err("it must end within 24h, by itself; begin another one then".to_owned());
    }
    Ok(lasts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bypass_lasts_a_day_at_most() {
        assert_eq!(duration("30m").unwrap(), SignedDuration::from_mins(30));
        assert_eq!(duration("1h30m").unwrap(), SignedDuration::from_mins(90));
        assert_eq!(duration("24h").unwrap(), LONGEST);
        for bad in ["24h1s", "0s", "-5m", "30", "for ever", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}

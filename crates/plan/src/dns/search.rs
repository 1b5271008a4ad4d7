// SPDX-License-Identifier: Apache-2.0
//! What a name may mean in Kubernetes: search domains taken off, cluster suffixes put on, wildcards in between.

use mesh::Hostname;

/// The name as it is (`None`), then what is left of it when a search domain of the client is taken off: the client's
/// resolver puts them on, so `api.example.com` is asked for as `api.example.com.shop.svc.cluster.local` first.
pub(super) fn aliases(
    name: &Hostname,
    namespace: &str,
    domain: &Hostname,
    search: &[Hostname],
) -> Vec<Option<Hostname>> {
    let domain = domain.as_str();
    let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    let configured = search.iter().map(|domain| domain.as_str().to_owned());
    let mut aliases = vec![None];
    for suffix in own.into_iter().chain(configured) {
        let stripped = without(name.as_str(), &suffix).and_then(|rest| Hostname::parse(rest).ok());
        if stripped.is_some() && !aliases.contains(&stripped) {
            aliases.push(stripped);
        }
    }
    aliases
}

/// Full names that a name may be short for, itself first. By its number of labels: a service here, a service of a
/// namespace (or a pod of a service here), a pod of a service of a namespace; with or without `svc`.
pub(super) fn expansions(name: &Hostname, namespace: &str, domain: &Hostname) -> Vec<Hostname> {
    let text = name.as_str();
    let labels: Vec<&str> = text.split('.').collect();
    let full = match labels.as_slice() {
        [_] => vec![format!("{text}.{namespace}.svc.{domain}")],
        [_, _] => vec![format!("{text}.svc.{domain}"), format!("{text}.{namespace}.svc.{domain}")],
        [_, _, "svc"] | [_, _, _, "svc"] => vec![format!("{text}.{domain}")],
        [_, _, _] => vec![format!("{text}.svc.{domain}")],
        _ => vec![],
    };
    let full = full.iter().filter_map(|name| Hostname::parse(name).ok());
    std::iter::once(name.clone()).chain(full).collect()
}

/// Wildcards that cover a name, the narrowest first: `*.b.c`, then `*.c`.
pub(super) fn wildcards(name: &Hostname) -> impl Iterator<Item = Hostname> {
    let mut rest = name.as_str();
    std::iter::from_fn(move || {
        (_, rest) = rest.split_once('.')?;
        Hostname::parse(&format!("*.{rest}")).ok()
    })
}

/// Whether a name is of a service of the cluster.
pub(super) fn is_of_cluster(name: &Hostname, domain: &Hostname) -> bool {
    without(name.as_str(), &format!("svc.{domain}")).is_some()
}

/// What is left of a name without a suffix of whole labels.
fn without<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    fn texts(names: impl IntoIterator<Item = Hostname>) -> Vec<String> {
        names.into_iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_short_name_is_completed_by_its_number_of_labels() {
        let cases: [(&str, &[&str]); 7] = [
            ("web", &["web.shop.svc.cluster.local"]),
            ("web.bank", &["web.bank.svc.cluster.local", "web.bank.shop.svc.cluster.local"]),
            ("web.bank.svc", &["web.bank.svc.cluster.local"]),
            ("web-0.web.bank", &["web-0.web.bank.svc.cluster.local"]),
            ("web-0.web.bank.svc", &["web-0.web.bank.svc.cluster.local"]),
            ("a.b.c.d", &[]),
            ("web.bank.svc.cluster.local", &[]),
        ];
        for (name, expected) in cases {
            let found = texts(expansions(&host(name), "shop", &host("cluster.local")));
            assert_eq!(found[0], name);
            assert_eq!(found[1..], *expected, "{name}");
        }
    }

    #[test]
    fn search_domains_are_taken_off_whole_labels_only() {
        let found = |name| {
            let all = aliases(&host(name), "shop", &host("cluster.local"), &[host("corp.example")]);
            assert_eq!(all[0], None);
            texts(all.into_iter().flatten())
        };
        assert_eq!(found("api.example.com"), Vec::<String>::new());
        assert_eq!(
            found("web.shop.svc.cluster.local"),
            ["web", "web.shop", "web.shop.svc"],
            "the longest search domain first"
        );
        assert_eq!(found("api.corp.example"), ["api"]);
        assert_eq!(found("apicorp.example"), Vec::<String>::new());
        assert_eq!(found("cluster.local"), Vec::<String>::new());
    }

    #[test]
    fn wildcards_go_from_narrow_to_wide() {
        assert_eq!(texts(wildcards(&host("a.b.c"))), ["*.b.c", "*.c"]);
        assert_eq!(texts(wildcards(&host("a"))), Vec::<String>::new());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Balancers at the socket: programs on the control groups above pods that exchange a service's address for a pod's when
//! an application connects. Then capture meets a pod where policies, balancing and waypoints speak of a service.

use std::{collections::BTreeMap, fs::File, net::SocketAddr, os::fd::AsFd, path::PathBuf};

use ebpf_loader::{Effect, SocketProgram, at_sockets};
use finding::Finding;

use super::{
    dial::{Dialled, dial},
    groups::Groups,
    network::SOCKET_LB,
};

/// One program, and the groups that it is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    program: SocketProgram,
    groups: Vec<PathBuf>,
}

/// Looks at every group above a pod, and tries a service address where a program is found that could change it.
pub(super) fn look(groups: &Groups, service: Option<SocketAddr>) -> Vec<Finding> {
    let mut attached: BTreeMap<(u32, &str), Attached> = BTreeMap::new();
    for group in &groups.of_pods {
        let path = groups.root.join(group);
        let programs = match File::open(&path).and_then(|file| at_sockets(file.as_fd())) {
            Ok(programs) => programs,
            // A pod that ended meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                let found =
                    format!("programs on the control group /{} cannot be listed: {error}", group.display());
                let fix = "give the agent's container the capabilities that charts/node has";
                return vec![Finding::warning(SOCKET_LB, found, fix)];
            }
        };
        for program in programs {
            let key = (program.id, program.hook);
            let entry = attached.entry(key).or_insert_with(|| Attached { program, groups: Vec::new() });
            entry.groups.push(group.clone());
        }
    }
    let attached: Vec<Attached> = attached.into_values().collect();
    let suspects = attached.iter().any(|found| found.program.effect != Effect::Keeps);
    let dialled = service.filter(|_| suspects).map_or(Dialled::Unknown, dial);
    judge(&attached, groups, &dialled)
}

/// What is proven is a failure; what could be, and did not happen when it was tried, is to be looked at.
fn judge(attached: &[Attached], groups: &Groups, dialled: &Dialled) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Attached { program, groups: places } in
        attached.iter().filter(|found| found.program.effect != Effect::Keeps)
    {
        let tried = places.iter().any(|place| groups.own.contains(place));
        let who = describe(program, places);
        let rewrites = "service addresses are exchanged before capture sees them, so policies, balancing and waypoints \
                        of services do not apply";
        findings.push(match (program.effect, dialled) {
            (_, Dialled::Rewritten(service, met)) if tried => Finding::failure(
                SOCKET_LB,
                format!("{who}: {service} became {met}; {rewrites}"),
                fix(program),
            ),
            (_, Dialled::Kept(service)) if tried => Finding::warning(
                SOCKET_LB,
                format!(
                    "{who} could exchange destinations; {service}, tried as a pod would, stayed as it was"
                ),
                fix(program),
            ),
            (Effect::Writes, Dialled::Kept(_) | Dialled::Rewritten(..) | Dialled::Unknown) => {
                Finding::failure(
                    SOCKET_LB,
                    format!("{who} has instructions that write the destination: {rewrites}"),
                    fix(program),
                )
            }
            (
                Effect::Unknown | Effect::Keeps,
                Dialled::Kept(_) | Dialled::Rewritten(..) | Dialled::Unknown,
            ) => Finding::warning(
                SOCKET_LB,
                format!("{who}: whether it writes destinations cannot be read from it"),
                fix(program),
            ),
        });
    }
    if findings.is_empty() {
        let found = match attached.len() {
            0 => "no program at the sockets of pods".to_owned(),
            number => format!("{number} at the sockets of pods, none writes a destination"),
        };
        findings.push(Finding::ok(SOCKET_LB, found));
    }
    findings
}

fn describe(program: &SocketProgram, places: &[PathBuf]) -> String {
    let owner = program.owner.map_or_else(|| "of an unknown owner".to_owned(), |owner| format!("of {owner}"));
    let name = if program.name.is_empty() { "without a name" } else { program.name.as_str() };
    let first = places.first().map(|place| place.display().to_string()).unwrap_or_default();
    let more = if places.len() > 1 { format!(" and {} more", places.len() - 1) } else { String::new() };
    format!(
        "program {} ({name}, {owner}) at {} of the control group /{first}{more}",
        program.id, program.hook
    )
}

fn fix(program: &SocketProgram) -> String {
    match program.owner {
        Some("Cilium") => {
            "helm upgrade cilium ... --reuse-values --set socketLB.hostNamespaceOnly=true, then restart \
                           the cilium pods"
                .to_owned()
        }
        Some("Calico") => "set bpfConnectTimeLoadBalancing: Disabled in the FelixConfiguration".to_owned(),
        Some(_) | None => {
            format!(
                "see whose it is (bpftool prog show id {}; bpftool cgroup tree), and turn that off",
                program.id
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use finding::Grade;

    use super::*;

    fn attached(effect: Effect, owner: Option<&'static str>, place: &str) -> Attached {
        let program = SocketProgram { id: 7, name: "lb".to_owned(), hook: "connect4", owner, effect };
        Attached { program, groups: vec![place.into()] }
    }

    #[test]
    fn what_is_proven_fails_and_what_could_be_warns() {
        let service: SocketAddr = "10.96.0.1:443".parse().unwrap();
        let (kept, unknown) = (Dialled::Kept(service), Dialled::Unknown);
        let rewritten = Dialled::Rewritten(service, "10.0.0.9:6443".parse().unwrap());
        let groups = Groups { own: ["", "own"].map(PathBuf::from).into(), ..Groups::default() };
        for (effect, place, dialled, grade, word) in [
            (Effect::Writes, "", &rewritten, Grade::Failure, "10.96.0.1:443 became 10.0.0.9:6443"),
            (Effect::Unknown, "", &rewritten, Grade::Failure, "became"),
            (Effect::Writes, "", &kept, Grade::Warning, "stayed as it was"),
            (Effect::Writes, "", &unknown, Grade::Failure, "instructions that write"),
            (Effect::Unknown, "", &unknown, Grade::Warning, "cannot be read"),
            // Where this process is not, trying proves nothing.
            (Effect::Writes, "pods", &kept, Grade::Failure, "control group /pods"),
            (Effect::Unknown, "pods", &rewritten, Grade::Warning, "cannot be read"),
            (Effect::Keeps, "", &unknown, Grade::Ok, "none writes"),
        ] {
            let findings = judge(&[attached(effect, None, place)], &groups, dialled);
            let [finding] = findings.as_slice() else { panic!("{findings:?}") };
            assert!(finding.grade == grade && finding.found.contains(word), "{finding:?}");
            assert!(
                finding.grade == Grade::Ok || finding.found.contains("program 7 (lb, of an unknown owner)")
            );
        }
        let cilium = judge(&[attached(Effect::Writes, Some("Cilium"), "")], &groups, &unknown);
        assert!(cilium.iter().all(|finding| finding.fix.contains("hostNamespaceOnly")), "{cilium:?}");
    }
}

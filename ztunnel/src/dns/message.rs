// SPDX-License-Identifier: Apache-2.0
//! DNS messages as bytes: what an application asks, what it is answered here, and what a server of the node may answer
//! it. No socket and no mesh: these are bytes from outside, whatever they are.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use mesh::Hostname;
use plan::dns::{Kind, Question, TTL};

use crate::resolver::Transport;

/// What a client without EDNS can take (RFC 1035 §4.2.1).
const DATAGRAM: usize = 512;
/// Length of the header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// The bit of the third byte that tells a response.
const RESPONSE: u8 = 0x80;
/// The bits of a label's length that tell a pointer (RFC 1035 §4.1.4).
const POINTER: u8 = 0xc0;

/// A question of an application.
#[derive(Clone, Debug)]
pub struct Asked {
    message: Message,
    query: Query,
}

impl Asked {
    /// Reads a message; nothing for one that asks nothing. A response is never answered, or two servers could be made to
    /// talk to each other for ever.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let query = message.queries.first()?.clone();
        Some(Self { message, query })
    }

    /// The name and type that are asked for.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The type for a metric's label: anybody can ask for any of 65536 types, those without a name count as one.
    pub fn label(&self) -> String {
        match self.query.query_type {
            RecordType::Unknown(_) => "unknown".to_owned(),
            known => known.to_string(),
        }
    }

    /// What the mesh is asked; nothing for what only other servers can know: another operation or class, several
    /// questions, a name that is no host's.
    pub fn question(&self, seed: u64) -> Option<Question> {
        let alone = self.message.queries.len() == 1;
        let lookup = self.message.metadata.op_code == OpCode::Query;
        if !alone || !lookup || self.query.query_class != DNSClass::IN {
            return None;
        }
        let kind = match self.query.query_type {
            RecordType::A => Kind::A,
            RecordType::AAAA => Kind::Aaaa,
            _ => Kind::Other,
        };
        Some(Question { name: Hostname::parse(&self.query.name.to_ascii()).ok()?, kind, seed })
    }

    /// The answer with these addresses, of the name asked for or of another that it leads to.
    pub fn records(
        &self,
        alias: Option<&Hostname>,
        addresses: &[IpAddr],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let mut records = Vec::with_capacity(addresses.len() + 1);
        let mut owner = self.query.name.clone();
        if let Some(target) = alias.and_then(|name| Name::from_ascii(format!("{name}.")).ok()) {
            records.push(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(target.clone()))));
            owner = target;
        }
        records.extend(addresses.iter().map(|address| {
            let data = match address {
                IpAddr::V4(ip) => RData::A(A(*ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
            };
            Record::from_rdata(owner.clone(), TTL, data)
        }));
        self.respond(records, ResponseCode::NoError, transport)
    }

    /// The answer when nobody knows.
    pub fn failure(&self, transport: Transport) -> Option<Vec<u8>> {
        self.respond(Vec::new(), ResponseCode::ServFail, transport)
    }

    fn respond(&self, records: Vec<Record>, code: ResponseCode, transport: Transport) -> Option<Vec<u8>> {
        let mut response = Message::response(self.message.metadata.id, OpCode::Query);
        response.metadata = Metadata::response_from_request(&self.message.metadata);
        response.metadata.recursion_available = true;
        response.metadata.authoritative = code == ResponseCode::NoError;
        response.metadata.response_code = code;
        response.add_query(self.query.clone());
        response.add_answers(records);
        let bytes = response.to_vec().ok()?;
        let most = self.message.edns.as_ref().map_or(DATAGRAM, |edns| usize::from(edns.max_payload()));
        if transport == Transport::Udp && bytes.len() > most.max(DATAGRAM) {
            return response.truncate().to_vec().ok();
        }
        Some(bytes)
    }
}

/// A copy of a question under another id.
pub fn renumbered(question: &[u8], id: [u8; 2]) -> Option<Vec<u8>> {
    let mut copy = question.to_vec();
    *copy.first_chunk_mut::<2>()? = id;
    Some(copy)
}

/// A server's answer under the id of the application's question, if it is the answer to that question, which was asked
/// under `id` (RFC 5452 §9.1). Only one that says nothing may leave the question out.
pub fn restored(answer: &[u8], id: [u8; 2], question: &[u8]) -> Option<Vec<u8>> {
    let (answered, asked) = (Head::of(answer)?, Head::of(question)?);
    if answered.id != id || !answered.is_response {
        return None;
    }
    let fits = if answered.questions == 0 {
        answered.records == 0
    } else {
        let ((name, kind), (asked_name, asked_kind)) = (first_question(answer)?, first_question(question)?);
        answered.questions == asked.questions && name.eq_ignore_ascii_case(asked_name) && kind == asked_kind
    };
    if fits { renumbered(answer, asked.id) } else { None }
}

/// What the header says that matters here.
struct Head {
    id: [u8; 2],
    is_response: bool,
    questions: u16,
    records: u16,
}

impl Head {
    fn of(message: &[u8]) -> Option<Self> {
        let [i, d, flags, _, q, n, a, r, ..] = *message.first_chunk::<HEADER>()?;
        Some(Self {
            id: [i, d],
            is_response: flags & RESPONSE != 0,
            questions: u16::from_be_bytes([q, n]),
            records: u16::from_be_bytes([a, r]),
        })
    }
}

/// The name of the first question, then its type and class. Nothing precedes its name that a pointer could lead to.
fn first_question(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let section = message.get(HEADER..)?;
    let mut end = 0;
    loop {
        let length = *section.get(end)?;
        if length & POINTER != 0 {
            return None;
        }
        end += 1 + usize::from(length);
        if length == 0 {
            return Some((section.get(..end)?, section.get(end..end + 4)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(kind: RecordType) -> (Message, Vec<u8>) {
        let name = Name::from_ascii("echo.shop.svc.cluster.local.").unwrap();
        let mut message = Message::query();
        message.metadata.id = 7;
        message.add_query(Query::query(name, kind));
        let bytes = message.to_vec().unwrap();
        (message, bytes)
    }

    fn asked(kind: RecordType) -> Asked {
        Asked::parse(&question(kind).1).unwrap()
    }

    #[test]
    fn an_answer_has_the_number_and_the_question_of_its_question() {
        let asked = asked(RecordType::A);
        let bytes = asked.records(None, &["10.30.0.1".parse().unwrap()], Transport::Udp).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, 7);
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.queries, [asked.query().clone()]);
        assert_eq!(answer.answers[0].ttl, TTL);
    }

    #[test]
    fn an_alias_leads_to_the_name_with_the_addresses() {
        let alias = Hostname::parse("echo.shop.svc.cluster.local").unwrap();
        let bytes = asked(RecordType::A)
            .records(Some(&alias), &["10.30.0.1".parse().unwrap()], Transport::Udp)
            .unwrap();
        let records = Message::from_vec(&bytes).unwrap().answers;
        assert_eq!(records[0].record_type(), RecordType::CNAME);
        assert_eq!(records[1].name.to_ascii(), "echo.shop.svc.cluster.local.");
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_cut_off_and_says_so() {
        let asked = asked(RecordType::A);
        let addresses: Vec<IpAddr> = (0..200).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let udp = asked.records(None, &addresses, Transport::Udp).unwrap();
        assert!(udp.len() <= DATAGRAM);
        assert!(Message::from_vec(&udp).unwrap().metadata.truncation);
        let tcp = asked.records(None, &addresses, Transport::Tcp).unwrap();
        assert_eq!(Message::from_vec(&tcp).unwrap().answers.len(), 200);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let (mut message, _bytes) = question(RecordType::A);
        message.metadata.message_type = MessageType::Response;
        assert!(Asked::parse(&message.to_vec().unwrap()).is_none());
        assert!(Asked::parse(&Message::query().to_vec().unwrap()).is_none());
        assert!(Asked::parse(&[]).is_none());
    }

    #[test]
    fn what_the_mesh_cannot_know_is_not_asked_of_it() {
        let parsed = |change: fn(&mut Message)| {
            let (mut message, _bytes) = question(RecordType::A);
            change(&mut message);
            Asked::parse(&message.to_vec().unwrap()).unwrap().question(1)
        };
        assert!(parsed(|_message| {}).is_some());
        assert!(parsed(|message| message.metadata.op_code = OpCode::Notify).is_none());
        assert!(parsed(|message| message.queries[0].query_class = DNSClass::CH).is_none());
        assert!(parsed(|message| message.queries.push(message.queries[0].clone())).is_none());
    }

    #[test]
    fn an_answer_counts_only_for_its_question_and_under_the_number_it_was_asked_with() {
        let (_message, bytes) = question(RecordType::A);
        let id = [0xab, 0xcd];
        let sent = renumbered(&bytes, id).unwrap();
        assert_eq!(sent[2..], bytes[2..]);
        let server = Asked::parse(&sent).unwrap();
        let honest = server.records(None, &["10.0.0.1".parse().unwrap()], Transport::Tcp).unwrap();
        let told = restored(&honest, id, &bytes).unwrap();
        assert_eq!(told[..2], [0, 7]);
        assert_eq!(told[2..], honest[2..]);

        let foreign = question(RecordType::AAAA).1;
        for (what, answer) in [
            ("another number", renumbered(&honest, [0, 7]).unwrap()),
            ("a question", sent.clone()),
            ("cut off", honest[..HEADER + 3].to_vec()),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(restored(&answer, id, &bytes), None, "{what}");
        }
        assert_eq!(restored(&honest, id, &foreign), None, "an answer to another question");
        assert_eq!(renumbered(&[1], id), None);

        // A server that could not even read the question.
        let refusal = [id[0], id[1], 0x80, 0x01, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(restored(&refusal, id, &bytes).is_some());
        let mut smuggler = refusal;
        smuggler[7] = 1;
        assert_eq!(restored(&smuggler, id, &bytes), None);
    }
}

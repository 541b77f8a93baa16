//! What `walcast dev` prints once it is ready: text from values, nothing else.

use std::net::SocketAddr;

/// A person of the demo data (sql/demo.sql).
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) id: &'static str,
}

/// The people of the demo data. ann and bob share a conversation, bob and cat another.
pub(super) const PEOPLE: [Person; 3] = [
    Person {
        name: "ann",
        id: "a0000000-0000-4000-8000-00000000000a",
    },
    Person {
        name: "bob",
        id: "b0000000-0000-4000-8000-00000000000b",
    },
    Person {
        name: "cat",
        id: "c0000000-0000-4000-8000-00000000000c",
    },
];

/// The conversation of ann and bob.
const CONVERSATION: &str = "c0000000-0000-4000-8000-000000000001";

/// Everything that a newcomer pastes.
pub(super) struct Welcome<'a> {
    pub(super) address: SocketAddr,
    /// How to call psql.
    pub(super) psql: &'a str,
    pub(super) database_url: &'a str,
    /// One token for each of [`PEOPLE`].
    pub(super) tokens: &'a [String],
    pub(super) publishable_key: &'a str,
    pub(super) secret_key: &'a str,
    pub(super) jwt_secret: &'a str,
}

impl Welcome<'_> {
    pub(super) fn print(&self) -> String {
        let url = format!("http://{}", self.address);
        let mut tokens = String::new();
        for (person, token) in PEOPLE.iter().zip(self.tokens) {
            tokens.push_str(&format!("  {}   {token}\n", person.name));
        }
        let psql = format!("{} '{}'", self.psql, self.database_url);
        let ann = self.tokens.first().map_or("", String::as_str);
        let Self {
            publishable_key,
            secret_key,
            jwt_secret,
            ..
        } = self;
        format!(
            "
walcast is ready at {url}

Tokens of three demo users; ann and bob share a conversation, bob and cat another:
{tokens}
API keys (anon and service_role), and the secret that signs tokens:
  {publishable_key}
  {secret_key}
  {jwt_secret}

1. Once: npm install @supabase/supabase-js ws

2. Save this as chat.mjs and run: node chat.mjs

{snippet}
3. In another terminal, write a message to ann and bob:

{psql} -c \"{insert}\"

cat's token in chat.mjs stays silent for it. Ctrl-C stops everything; walcast dev --reset begins anew.
",
            snippet = snippet(&url, ann),
            insert = insert(),
        )
    }
}

/// Ten lines of supabase-js. Node before 22 has no WebSocket of its own, hence `ws`.
fn snippet(url: &str, token: &str) -> String {
    format!(
        "\
import {{ createClient }} from '@supabase/supabase-js'
import ws from 'ws' // for Node before 22; browsers need neither this nor the transport below
const token = '{token}'
const client = createClient('{url}', token, {{ realtime: {{ transport: ws }} }})
client
  .channel('chat')
  .on('postgres_changes', {{ event: '*', schema: 'public', table: 'messages' }}, (change) => {{
    console.log(change.eventType, change.new.content)
  }})
  .subscribe((status, error) => console.log(status, error ?? ''))
"
    )
}

fn insert() -> String {
    let sender = PEOPLE.get(1).map_or("", |person| person.id);
    format!(
        "insert into messages (conversation_id, sender_id, sender_type, content) values ('{CONVERSATION}', '{sender}', 'user', 'Hello ann!')"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_people_and_the_conversation_are_those_of_the_demo_data() {
        let demo = include_str!("../../../sql/demo.sql");
        for id in PEOPLE.iter().map(|person| person.id).chain([CONVERSATION]) {
            assert!(demo.contains(id), "{id}");
        }
    }

    #[test]
    fn the_snippet_has_ten_lines() {
        assert_eq!(
            snippet("http://127.0.0.1:4000", "token").lines().count(),
            10
        );
    }

    #[test]
    fn the_readme_shows_the_same() {
        let readme = include_str!("../../../README.md");
        let snippet = snippet("http://127.0.0.1:4000", "…");
        assert!(readme.contains(&snippet), "{snippet}");
        assert!(readme.contains(&insert()), "{}", insert());
    }
}

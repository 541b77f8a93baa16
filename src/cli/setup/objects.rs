//! The scripts that setup runs, and how to tell whether what they make is there.

use super::Mark;
use crate::database::quote_identifier;

/// A file of `sql/` or `policies/` with the objects that it makes.
pub(super) struct Script {
    pub(super) sql: &'static str,
    pub(super) objects: &'static [Object],
    /// How bad it is when an object cannot be made.
    pub(super) when_missing: Mark,
}

/// Something that a script makes.
pub(super) struct Object {
    /// What it is called; `{publication}` stands for the publication's name.
    title: &'static str,
    /// A boolean SQL expression; `$1` is the publication's name.
    pub(super) present: &'static str,
    /// What an administrator runs to make it; empty: the whole script.
    remedy: &'static str,
}

impl Object {
    pub(super) fn title(&self, publication: &str) -> String {
        self.title.replace("{publication}", publication)
    }

    pub(super) fn remedy(&self, publication: &str) -> String {
        if self.remedy.is_empty() {
            "as an administrator: walcast setup --print | psql".to_owned()
        } else {
            self.remedy
                .replace("{publication}", &quote_identifier(publication))
        }
    }
}

const fn object(title: &'static str, present: &'static str, remedy: &'static str) -> Object {
    Object {
        title,
        present,
        remedy,
    }
}

const fn function(title: &'static str, present: &'static str) -> Object {
    object(title, present, "")
}

/// Whether `realtime.messages` takes a row now. By name; a default partition takes every row.
pub(in crate::cli) const PARTITION_PRESENT: &str = "exists (select from pg_catalog.pg_inherits as i \
    join pg_catalog.pg_class as c on c.oid = i.inhrelid \
    where i.inhparent = pg_catalog.to_regclass('realtime.messages') \
      and (c.relname = 'messages_' || pg_catalog.to_char(pg_catalog.now() at time zone 'utc', 'YYYY_MM_DD') \
        or pg_catalog.pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'))";

pub(super) const ROLES: Script = Script {
    sql: include_str!("../../../sql/roles.sql"),
    when_missing: Mark::Failure,
    objects: &[
        object(
            "role anon",
            "exists (select from pg_catalog.pg_roles where rolname = 'anon')",
            "create role anon nologin noinherit;",
        ),
        object(
            "role authenticated",
            "exists (select from pg_catalog.pg_roles where rolname = 'authenticated')",
            "create role authenticated nologin noinherit;",
        ),
        object(
            "role service_role",
            "exists (select from pg_catalog.pg_roles where rolname = 'service_role')",
            "create role service_role nologin noinherit bypassrls;",
        ),
    ],
};

pub(super) const AUTH: Script = Script {
    sql: include_str!("../../../sql/auth.sql"),
    when_missing: Mark::Failure,
    objects: &[
        object(
            "function auth.uid()",
            "pg_catalog.to_regprocedure('auth.uid()') is not null",
            "",
        ),
        object(
            "function auth.role()",
            "pg_catalog.to_regprocedure('auth.role()') is not null",
            "",
        ),
        object(
            "function auth.email()",
            "pg_catalog.to_regprocedure('auth.email()') is not null",
            "",
        ),
        object(
            "function auth.jwt()",
            "pg_catalog.to_regprocedure('auth.jwt()') is not null",
            "",
        ),
        object(
            "subscribers may use schema auth",
            "select pg_catalog.bool_and(pg_catalog.has_schema_privilege(r.oid, pg_catalog.to_regnamespace('auth')::oid, 'usage')) \
             from pg_catalog.pg_roles as r where r.rolname in ('anon', 'authenticated', 'service_role')",
            "grant usage on schema auth to anon, authenticated, service_role;",
        ),
    ],
};

pub(super) const OWN_SCHEMA: Script = Script {
    sql: include_str!("../../../sql/walcast.sql"),
    when_missing: Mark::Failure,
    objects: &[
        object(
            "schema walcast",
            "pg_catalog.to_regnamespace('walcast') is not null",
            "",
        ),
        object(
            "table walcast.slots",
            "pg_catalog.to_regclass('walcast.slots') is not null",
            "",
        ),
        object(
            "function walcast.announce_ddl()",
            "pg_catalog.to_regprocedure('walcast.announce_ddl()') is not null",
            "",
        ),
    ],
};

pub(super) const EVENT_TRIGGERS: Script = Script {
    sql: include_str!("../../../sql/event_triggers.sql"),
    // Without them schema changes are noticed by comparing the catalog.
    when_missing: Mark::Warning,
    objects: &[
        object(
            "event trigger walcast_ddl",
            "exists (select from pg_catalog.pg_event_trigger where evtname = 'walcast_ddl' and evtenabled = 'A')",
            "create event trigger walcast_ddl on ddl_command_end execute function walcast.announce_ddl();\n\
             alter event trigger walcast_ddl enable always;",
        ),
        object(
            "event trigger walcast_drop",
            "exists (select from pg_catalog.pg_event_trigger where evtname = 'walcast_drop' and evtenabled = 'A')",
            "create event trigger walcast_drop on sql_drop execute function walcast.announce_ddl();\n\
             alter event trigger walcast_drop enable always;",
        ),
    ],
};

pub(super) const PUBLICATION: Script = Script {
    sql: include_str!("../../../sql/publication.sql"),
    when_missing: Mark::Failure,
    objects: &[object(
        "publication {publication}",
        "exists (select from pg_catalog.pg_publication where pubname = $1)",
        "create publication {publication};",
    )],
};

pub(super) const MESSAGES: Script = Script {
    sql: include_str!("../../../sql/messages.sql"),
    // Row changes are delivered without it.
    when_missing: Mark::Warning,
    objects: &[
        object(
            "schema realtime",
            "pg_catalog.to_regnamespace('realtime') is not null",
            "",
        ),
        object(
            "subscribers may use schema realtime",
            "select pg_catalog.bool_and(pg_catalog.has_schema_privilege(r.oid, pg_catalog.to_regnamespace('realtime')::oid, 'usage')) \
             from pg_catalog.pg_roles as r where r.rolname in ('anon', 'authenticated', 'service_role')",
            "grant usage on schema realtime to anon, authenticated, service_role;",
        ),
        object(
            "table realtime.messages",
            "pg_catalog.to_regclass('realtime.messages') is not null",
            "",
        ),
        function(
            "function realtime.topic()",
            "pg_catalog.to_regprocedure('realtime.topic()') is not null",
        ),
        function(
            "function realtime.send()",
            "pg_catalog.to_regprocedure('realtime.send(jsonb, text, text, boolean)') is not null",
        ),
        function(
            "function realtime.send_binary()",
            "pg_catalog.to_regprocedure('realtime.send_binary(bytea, text, text, boolean)') is not null",
        ),
        function(
            "function realtime.broadcast_changes()",
            "pg_catalog.to_regprocedure('realtime.broadcast_changes(text, text, text, text, text, record, record, text)') \
                is not null",
        ),
        object(
            "publication supabase_realtime_messages_publication",
            "exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime_messages_publication')",
            "create publication supabase_realtime_messages_publication for table realtime.messages\n  \
             with (publish = 'insert', publish_via_partition_root = true);",
        ),
    ],
};

pub(super) const MESSAGE_FUNCTIONS: Script = Script {
    sql: include_str!("../../../sql/message_functions.sql"),
    when_missing: Mark::Warning,
    objects: &[
        function(
            "function walcast.keep_message_partitions()",
            "pg_catalog.to_regprocedure('walcast.keep_message_partitions()') is not null",
        ),
        function(
            "function walcast.probe_messages()",
            "pg_catalog.to_regprocedure('walcast.probe_messages(text, uuid, uuid)') is not null",
        ),
        function(
            "function walcast.replay_messages()",
            "pg_catalog.to_regprocedure('walcast.replay_messages(text, bigint, integer, uuid[])') is not null",
        ),
        function(
            "function walcast.store_message()",
            "pg_catalog.to_regprocedure('walcast.store_message(uuid, text, text, text, bytea, integer)') is not null",
        ),
        object(
            "today's partition of realtime.messages",
            PARTITION_PRESENT,
            "select walcast.keep_message_partitions();",
        ),
    ],
};

pub(super) const MESSAGING: Script = Script {
    sql: include_str!("../../../sql/messaging.sql"),
    when_missing: Mark::Failure,
    objects: &[
        object(
            "table public.conversations",
            "pg_catalog.to_regclass('public.conversations') is not null",
            "",
        ),
        object(
            "table public.messages",
            "pg_catalog.to_regclass('public.messages') is not null",
            "",
        ),
        object(
            "table public.last_seen",
            "pg_catalog.to_regclass('public.last_seen') is not null",
            "",
        ),
        object(
            "index public.conversations_participant_ids_idx",
            "pg_catalog.to_regclass('public.conversations_participant_ids_idx') is not null",
            "",
        ),
        object(
            "index public.messages_conversation_id_created_at_idx",
            "pg_catalog.to_regclass('public.messages_conversation_id_created_at_idx') is not null",
            "",
        ),
        object(
            "row-level security on public.conversations",
            "select relrowsecurity from pg_catalog.pg_class where oid = pg_catalog.to_regclass('public.conversations')",
            "alter table public.conversations enable row level security;",
        ),
        object(
            "row-level security on public.messages",
            "select relrowsecurity from pg_catalog.pg_class where oid = pg_catalog.to_regclass('public.messages')",
            "alter table public.messages enable row level security;",
        ),
        object(
            "row-level security on public.last_seen",
            "select relrowsecurity from pg_catalog.pg_class where oid = pg_catalog.to_regclass('public.last_seen')",
            "alter table public.last_seen enable row level security;",
        ),
        object(
            "subscribers may read the three tables",
            "select pg_catalog.bool_and(pg_catalog.has_schema_privilege(r.oid, pg_catalog.to_regnamespace('public')::oid, 'usage') \
                and pg_catalog.has_table_privilege(r.oid, pg_catalog.to_regclass('public.conversations'), 'select') \
                and pg_catalog.has_table_privilege(r.oid, pg_catalog.to_regclass('public.messages'), 'select') \
                and pg_catalog.has_table_privilege(r.oid, pg_catalog.to_regclass('public.last_seen'), 'select')) \
             from pg_catalog.pg_roles as r where r.rolname in ('anon', 'authenticated', 'service_role')",
            "grant select on public.conversations, public.messages, public.last_seen to anon, authenticated, service_role;",
        ),
        object(
            "public.conversations in publication {publication}",
            "exists (select from pg_catalog.pg_publication_tables where pubname = $1 and schemaname = 'public' \
                and tablename = 'conversations')",
            "alter publication {publication} add table public.conversations;",
        ),
        object(
            "public.messages in publication {publication}",
            "exists (select from pg_catalog.pg_publication_tables where pubname = $1 and schemaname = 'public' \
                and tablename = 'messages')",
            "alter publication {publication} add table public.messages;",
        ),
        object(
            "public.last_seen in publication {publication}",
            "exists (select from pg_catalog.pg_publication_tables where pubname = $1 and schemaname = 'public' \
                and tablename = 'last_seen')",
            "alter publication {publication} add table public.last_seen;",
        ),
    ],
};

pub(super) const MESSAGING_POLICIES: Script = Script {
    sql: include_str!("../../../policies/messaging.sql"),
    when_missing: Mark::Failure,
    objects: &[
        object(
            "policy \"participants read their conversations\"",
            "exists (select from pg_catalog.pg_policies where schemaname = 'public' and tablename = 'conversations' \
                and policyname = 'participants read their conversations')",
            "",
        ),
        object(
            "policy \"participants read the messages of their conversations\"",
            "exists (select from pg_catalog.pg_policies where schemaname = 'public' and tablename = 'messages' \
                and policyname = 'participants read the messages of their conversations')",
            "",
        ),
        object(
            "policy \"people in one conversation see when the others were here\"",
            "exists (select from pg_catalog.pg_policies where schemaname = 'public' and tablename = 'last_seen' \
                and policyname = 'people in one conversation see when the others were here')",
            "",
        ),
    ],
};

pub(super) const CHANNEL_POLICIES: Script = Script {
    sql: include_str!("../../../policies/channels.sql"),
    when_missing: Mark::Warning,
    objects: &[
        function(
            "function public.conversation_of_topic()",
            "pg_catalog.to_regprocedure('public.conversation_of_topic(text)') is not null",
        ),
        object(
            "policy \"participants receive in the channel of their conversation\"",
            "exists (select from pg_catalog.pg_policies where schemaname = 'realtime' and tablename = 'messages' \
                and policyname = 'participants receive in the channel of their conversation')",
            "",
        ),
        object(
            "policy \"participants send to the channel of their conversation\"",
            "exists (select from pg_catalog.pg_policies where schemaname = 'realtime' and tablename = 'messages' \
                and policyname = 'participants send to the channel of their conversation')",
            "",
        ),
        object(
            "policy \"people see who is online\"",
            "exists (select from pg_catalog.pg_policies where schemaname = 'realtime' and tablename = 'messages' \
                and policyname = 'people see who is online')",
            "",
        ),
        object(
            "policy \"people show that they are online\"",
            "exists (select from pg_catalog.pg_policies where schemaname = 'realtime' and tablename = 'messages' \
                and policyname = 'people show that they are online')",
            "",
        ),
    ],
};

-- entry: saas: own tenant by claim
create policy p on %t using (tenant = (auth.jwt() -> 'app_metadata' ->> 'tenant')::uuid);
-- entry: saas: own tenant by claim, wrapped
create policy p on %t using (tenant = (select (auth.jwt() -> 'app_metadata' ->> 'tenant')::uuid));
-- entry: saas: own tenant by function
create policy p on %t using (tenant = app.tenant());
-- entry: saas: tenant as text
create policy p on %t using (tenant::text = (select auth.jwt() -> 'app_metadata' ->> 'tenant'));
-- entry: saas: tenants of a claim's array
create policy p on %t using (tenant = any (array(select jsonb_array_elements_text(auth.jwt() -> 'app_metadata' -> 'tenants')::uuid)));
-- entry: saas: orgs of a claim's array
create policy p on %t using (to_jsonb(org) <@ (auth.jwt() -> 'app_metadata' -> 'orgs'));
-- entry: saas: orgs as keys of a claim
create policy p on %t using ((auth.jwt() -> 'app_metadata' -> 'org_roles') ? org::text);
-- entry: saas: role within an org as a claim
create policy p on %t using ((auth.jwt() -> 'app_metadata' -> 'org_roles' ->> org::text) in ('admin', 'owner'));
-- entry: saas: any member
create policy p on %t using (org in (select m.org from app.members m where m.who = auth.uid()));
-- entry: saas: any member, array
create policy p on %t using (org = any (array(select m.org from app.members m where m.who = (select auth.uid()) and m.active)));
-- entry: saas: member by function, wrapped
create policy p on %t using ((select app.is_member(org)));
-- entry: saas: grade by enum order
create policy p on %t using (app.has_grade(org, wanted));
-- entry: saas: grade by enum order, inline
create policy p on %t using (exists (select 1 from app.members m where m.org = %t.org and m.who = auth.uid() and m.grade >= coalesce(%t.wanted, 'admin')));
-- entry: saas: set function
create policy p on %t using (org in (select app.my_orgs_set()));
-- entry: saas: set function in from
create policy p on %t using (exists (select 1 from app.my_orgs_set() as o (id) where o.id = org));
-- entry: saas: array function
create policy p on %t using (org = any (app.my_orgs_array()));
-- entry: saas: array function, wrapped
create policy p on %t using (org = any ((select app.my_orgs_array())::int[]));
-- entry: saas: suspended organisation, restrictive
create policy a on %t using (app.is_member(org));
create policy b on %t as restrictive using (coalesce((select o.active from app.orgs o where o.id = org), false));
-- entry: saas: plan limits
create policy p on %t using (exists (select 1 from app.orgs o where o.id = %t.org and o.plan <> 'free' and (o.settings ->> 'limit')::int >= %t.rank));
-- entry: saas: permission table
create policy p on %t using (app.may('notes.read') and org is not null);
-- entry: saas: permission table, inline
create policy p on %t using (exists (select 1 from app.grants g where g.role = (auth.jwt() -> 'app_metadata' ->> 'role') and g.permission = 'read.' || state));
-- entry: saas: permission wildcard
create policy p on %t using (exists (select 1 from app.grants g where g.role = auth.jwt() -> 'app_metadata' ->> 'role' and ('read.' || coalesce(state, '')) like replace(g.permission, '*', '%')));
-- entry: saas: default deny and service role
create policy a on %t to service_role using (true);
create policy b on %t to anon using (false);
create policy c on %t to authenticated using (auth.role() = 'authenticated' and open);
-- entry: saas: own org through profile
create policy p on %t using (org = (select p.org from app.profiles p where p.id = (select auth.uid())));
-- entry: saas: own org through function
create policy p on %t using (org = app.org_of(auth.uid()));
-- entry: saas: tenant setting that nobody sets
create policy p on %t using (tenant = nullif(current_setting('app.current_tenant', true), '')::uuid or open);
-- entry: saas: tenant setting that must be there
create policy p on %t using (tenant = current_setting('app.current_tenant')::uuid);
-- entry: chat: seats
create policy p on %t using (exists (select 1 from app.seats s where s.room = %t.room and s.who = auth.uid() and s.left_at is null));
-- entry: chat: seats or public room
create policy p on %t using (exists (select 1 from app.rooms r where r.id = room and (not r.private or exists (select 1 from app.seats s where s.room = r.id and s.who = (select auth.uid())))));
-- entry: chat: people of the room
create policy p on %t using ((select auth.uid()) = any ((select r.people from app.rooms r where r.id = room)::uuid[]));
-- entry: chat: people array contains
create policy p on %t using (people @> array[(select auth.uid())]);
-- entry: chat: sender or receiver, neither blocked
create policy p on %t using (auth.uid() in (owner, other) and not exists (select 1 from app.blocks b where (b.blocker, b.blocked) in ((owner, other), (other, owner))));
-- entry: chat: before leaving
create policy p on %t using (exists (select 1 from app.seats s where s.room = %t.room and s.who = auth.uid() and (s.left_at is null or %t.at < s.left_at)));
-- entry: chat: small rooms
create policy p on %t using (app.count_seats(room) < 3);
-- entry: chat: moderator or own
create policy p on %t using (owner = auth.uid() or 'moderator' = (select s.role from app.seats s where s.room = %t.room and s.who = auth.uid()));
-- entry: chat: direct or by join
create policy p on %t using (room in (select r.id from app.rooms r join app.seats s on s.room = r.id where s.who = (select auth.uid()) and r.kind is distinct from 'archived'));
-- entry: chat: not blocked, not in
create policy p on %t using (owner not in (select b.blocked from app.blocks b where b.blocker = auth.uid()));
-- entry: chat: blocked by function
create policy p on %t using (not app.blocked_by(owner));
-- entry: feed: followers
create policy p on %t using (owner = auth.uid() or state = 'public' or (state = 'followers' and exists (select 1 from app.follows f where f.followee = owner and f.follower = auth.uid() and f.accepted)));
-- entry: feed: mutual followers
create policy p on %t using (exists (select 1 from app.follows a join app.follows b on a.follower = b.followee and a.followee = b.follower where a.follower = auth.uid() and a.followee = owner));
-- entry: feed: friends of friends
create policy p on %t using (owner in (select f2.followee from app.follows f1 join app.follows f2 on f2.follower = f1.followee where f1.follower = (select auth.uid())));
-- entry: feed: popular
create policy p on %t using ((select count(*) from app.follows f where f.followee = owner and f.accepted) >= 2);
-- entry: feed: banned authors
create policy p on %t using (not coalesce((select p.banned from app.profiles p where p.id = owner), true));
-- entry: feed: visibility case
create policy p on %t using (case state when 'public' then true when 'org' then app.is_member(org) when 'private' then owner = (select auth.uid()) else false end);
-- entry: feed: nested case
create policy p on %t using (case when hidden then owner = auth.uid() when open then true else case when rank > 2 then app.may('see') else org in (1, 2) end end);
-- entry: org: above, recursive
create policy p on %t using (exists (select 1 from app.members m where m.who = auth.uid() and app.is_above(%t.org, m.org)));
-- entry: org: above, inline recursion
create policy p on %t using (exists (with recursive up as (select o.id, o.parent from app.orgs o where o.id = %t.org union all select o.id, o.parent from app.orgs o, up where o.id = up.parent and o.id <> up.id) select 1 from up limit 1));
-- entry: org: manager of the owner
create policy p on %t using (exists (select 1 from app.profiles p where p.id = owner and p.parent = auth.uid()));
-- entry: org: two levels of managers
create policy p on %t using (auth.uid() in (select p.parent from app.profiles p where p.id = owner union select q.parent from app.profiles p join app.profiles q on q.id = p.parent where p.id = owner));
-- entry: org: loop
create policy p on %t using (app.loop_orgs(org));
-- entry: org: children of my orgs
create policy p on %t using (org in (select o.id from app.orgs o where o.parent in (select m.org from app.members m where m.who = auth.uid())));
-- entry: org: path prefix
create policy p on %t using (path like (auth.jwt() -> 'app_metadata' ->> 'path') || '%');
-- entry: org: path with starts_with
create policy p on %t using (starts_with(path, coalesce(auth.jwt() -> 'app_metadata' ->> 'path', 'none')));
-- entry: share: by row
create policy p on %t using (owner = auth.uid() or exists (select 1 from app.shares s where s.note = %t.id and s.who = auth.uid()));
-- entry: share: valid now
create policy p on %t using (exists (select 1 from app.shares s where s.note = %t.id and s.valid @> now()));
-- entry: share: by row or org, grade
create policy p on %t using (id in (select s.note from app.shares s where s.grade >= 'editor'));
-- entry: share: link token in headers
create policy p on %t using (exists (select 1 from app.shares s where s.note = %t.id and s.token = (current_setting('request.headers', true)::json ->> 'x-share')));
-- entry: share: folder tree
create policy p on %t using (exists (select 1 from app.folders f left join app.folders g on g.id = f.parent where f.id = folder and (f.public or g.public or coalesce(g.owner, f.owner) = auth.uid())));
-- entry: time: window
create policy p on %t using (now() between at and at + coalesce(span, interval '1 day'));
-- entry: time: embargo
create policy p on %t using (at is null or at <= now() or owner = (select auth.uid()));
-- entry: time: today
create policy p on %t using (day >= current_date - 7000 and extract(isodow from day) < 6);
-- entry: time: zone
create policy p on %t using ((at at time zone 'UTC')::date = day or (starts at time zone 'UTC') > now());
-- entry: time: other zone
create policy p on %t using ((at at time zone 'Europe/Berlin')::time > clock);
-- entry: time: range
create policy p on %t using (during @> at);
-- entry: time: range, overlaps
create policy p on %t using (during && tstzrange('2020-01-01', '2030-01-01') and not isempty(pages));
-- entry: time: overlaps operator
create policy p on %t using ((day, day + 3) overlaps (date '2020-01-01', date '2026-01-01'));
-- entry: time: to_char
create policy p on %t using (to_char(at, 'YYYY') = '2020');
-- entry: time: token age
create policy p on %t using (to_timestamp((auth.jwt() ->> 'iat')::bigint) > now() - interval '1 hour');
-- entry: time: membership period
create policy p on %t using (exists (select 1 from app.members m where m.org = %t.org and m.who = auth.uid() and now() >= m.since and now() < coalesce(m.until, 'infinity')));
-- entry: time: as of the row
create policy p on %t using (exists (select 1 from app.members m where m.org = %t.org and m.who = auth.uid() and %t.at >= m.since));
-- entry: claims: multi-factor
create policy a on %t using (owner = auth.uid());
create policy b on %t as restrictive to authenticated using ((select auth.jwt() ->> 'aal') = 'aal2');
-- entry: claims: multi-factor if verified
create policy a on %t using (true);
create policy b on %t as restrictive to authenticated using (array[(select auth.jwt() ->> 'aal')] <@ (select case when count(*) > 0 then array['aal2'] else array['aal1', 'aal2'] end from app.seats s where s.who = (select auth.uid())));
-- entry: claims: amr
create policy p on %t using (exists (select 1 from jsonb_array_elements(auth.jwt() -> 'amr') e where e ->> 'method' = 'mfa'));
-- entry: claims: amr, path
create policy p on %t using (auth.jwt() -> 'amr' @> '[{"method": "mfa"}]');
-- entry: claims: anonymous users
create policy p on %t as permissive using ((auth.jwt() ->> 'is_anonymous')::boolean is false or open);
-- entry: claims: anonymous users, not true
create policy p on %t using (((select auth.jwt()) ->> 'is_anonymous')::boolean is not true);
-- entry: claims: email domain
create policy p on %t using (split_part(auth.email(), '@', 2) = split_part(email, '@', 2));
-- entry: claims: email ends
create policy p on %t using (auth.jwt() ->> 'email' like '%@example.com');
-- entry: claims: email lower
create policy p on %t using (lower(email) = app.lower_email());
-- entry: claims: roles array any
create policy p on %t using ((auth.jwt() -> 'app_metadata' -> 'roles') ?| tags);
-- entry: claims: role function
create policy p on %t using (app.jwt_has('admin') or app.jwt_has(state));
-- entry: claims: number
create policy p on %t using (rank <= (auth.jwt() ->> 'level')::int);
-- entry: claims: number that may be none
create policy p on %t using (rank <= app.claim_int('level'));
-- entry: claims: numeric number
create policy p on %t using (price < (auth.jwt() -> 'limits' ->> 'price')::numeric);
-- entry: claims: jsonb compare
create policy p on %t using (data -> 'level' = auth.jwt() -> 'level');
-- entry: claims: jsonb order
create policy p on %t using ((data ->> 'level')::numeric <= (auth.jwt() ->> 'level')::numeric);
-- entry: claims: contained in
create policy p on %t using (data -> 'need' <@ (auth.jwt() -> 'app_metadata'));
-- entry: claims: aud
create policy p on %t using (auth.jwt() -> 'aud' ? 'web' or auth.jwt() ->> 'aud' = 'authenticated');
-- entry: claims: old settings
create policy p on %t using (owner::text = current_setting('request.jwt.claim.sub', true));
-- entry: claims: claims as json
create policy p on %t using (current_setting('request.jwt.claims', true)::json ->> 'sub' = owner::text);
-- entry: claims: path operator
create policy p on %t using ((auth.jwt() #> '{app_metadata,orgs}') @> to_jsonb(array[org]));
-- entry: claims: case cast
create policy p on %t using (case when auth.jwt() ->> 'level' ~ '^[0-9]+$' then (auth.jwt() ->> 'level')::int >= rank else false end);
-- entry: claims: coalesce of two
create policy p on %t using (coalesce(auth.jwt() -> 'user_metadata' ->> 'org', auth.jwt() -> 'app_metadata' ->> 'org') = org::text);
-- entry: claims: must be signed in
create policy p on %t using (owner = app.checked_uid());
-- entry: claims: must be signed in, wrapped
create policy p on %t using (open or owner = (select app.checked_uid()));
-- entry: null: distinct
create policy p on %t using (owner is distinct from auth.uid() and other is not distinct from (select auth.uid()));
-- entry: null: not in with null
create policy p on %t using (org not in (1, null) or rank in (1, null));
-- entry: null: not in subselect with nulls
create policy p on %t using (org not in (select p.org from app.profiles p));
-- entry: null: all
create policy p on %t using (rank >= all (select s.note from app.shares s));
-- entry: null: any over null array
create policy p on %t using (rank = any (nums) is not true);
-- entry: null: not and null
create policy p on %t using (not (open and hidden));
-- entry: null: is unknown
create policy p on %t using ((open = hidden) is unknown or (rank > 1) is not false);
-- entry: null: row is null
create policy p on %t using ((owner, other) is null or (org, room) is not null);
-- entry: null: row comparison
create policy p on %t using ((org, rank) > (1, 2) or (owner, org) = (auth.uid(), 3));
-- entry: null: nullif and greatest
create policy p on %t using (nullif(state, 'none') = coalesce(nullif(title, ''), state) or greatest(rank, org, null) > 2);
-- entry: null: num_nonnulls
create policy p on %t using (num_nonnulls(owner, other, org) >= 2);
-- entry: raise: cast of text
create policy p on %t using (state::int > 1);
-- entry: raise: cast of text guarded by and
create policy p on %t using (state ~ '^[0-9]+$' and state::int > 1);
-- entry: raise: cast of text guarded by case
create policy p on %t using (case when state ~ '^[0-9]+$' then state::int > 1 end);
-- entry: raise: cast or open
create policy a on %t using (open);
create policy b on %t using (title::uuid = auth.uid());
-- entry: raise: division
create policy p on %t using (100 / rank > 10);
-- entry: raise: division guarded
create policy p on %t using (rank <> 0 and 100 / rank > 10);
-- entry: raise: modulo by nullif
create policy p on %t using (10 % nullif(rank, 0) = 0);
-- entry: raise: scalar with two rows
create policy p on %t using (org = (select m.org from app.members m where m.who = owner));
-- entry: raise: array index
create policy p on %t using ((string_to_array(path, '/'))[2]::uuid = auth.uid());
-- entry: raise: jsonb to boolean
create policy p on %t using ((data ->> 'flag')::boolean);
-- entry: raise: jsonb cast
create policy p on %t using ((data -> 'level')::int > 1);
-- entry: raise: enum of text
create policy p on %t using (state::app.kind = kind);
-- entry: raise: overflow
create policy p on %t using (rank * 2000000000 > 0);
-- entry: raise: sqrt and power
create policy p on %t using (ratio > 0 and power(ratio, 2) < 10);
-- entry: raise: substring negative
create policy p on %t using (substring(title from 1 for rank) = 'a');
-- entry: raise: lookup with a case of claims
create policy p on %t using (open or exists (select 1 from app.notes_of_staff n where n.id = %t.org));
-- entry: text: like
create policy p on %t using (title like 'a%' or title not like '%b_');
-- entry: text: ilike of a column
create policy p on %t using (title ilike state || '%');
-- entry: text: escape
create policy p on %t using (title like 'a\%%' or path like '%!_x' escape '!');
-- entry: text: similar to
create policy p on %t using (title similar to '(a|b|open)%[0-9]?' or state similar to '[a-d]+');
-- entry: text: regex
create policy p on %t using (title ~ '^[a-z]{2,}$' and title !~* 'X');
-- entry: text: regex classes
create policy p on %t using (title ~ '\d' or title ~ '^\w+$' or title ~ '[[:upper:]]');
-- entry: text: regexp_match
create policy p on %t using ((regexp_match(path, '^org/(\d+)/'))[1]::int = org);
-- entry: text: regexp_split
create policy p on %t using ('a' = any (regexp_split_to_array(title, '[ ,]+')));
-- entry: text: search
create policy p on %t using (to_tsvector('english', coalesce(title, '')) @@ plainto_tsquery('english', 'open'));
-- entry: text: varchar and char
create policy p on %t using (slug = state or code = 'ab' or code::text = 'ab    ' or slug = code);
-- entry: text: char against text
create policy p on %t using (code = state::bpchar and length(code) < 4);
-- entry: text: collation
create policy p on %t using (word < 'b' or word between 'X' and 'c');
-- entry: text: collate
create policy p on %t using (title collate "C" > 'B' and word = any (array['a', 'A']));
-- entry: text: locale order
create policy p on %t using (title > 'b');
-- entry: text: string_to_array
create policy p on %t using (auth.uid()::text = any (string_to_array(path, '/')) or string_to_array(title, null) @> array['a']);
-- entry: text: format and concat
create policy p on %t using (format('%s/%s', org, room) = path or concat_ws(':', state, null, title) = 'open:a');
-- entry: text: storage style
create policy p on %t using ((string_to_array(path, '/'))[1] = 'org' and (string_to_array(path, '/'))[2] = any (select m.org::text from app.members m));
-- entry: text: hash
create policy p on %t using (md5(coalesce(title, '')) < '8');
-- entry: text: overlay and lpad
create policy p on %t using (lpad(rank::text, 3, '0') = '001' or right(title, 2) = 'en' or strpos(path, '/') = 4 or initcap(state) = 'Open');
-- entry: array: overlap with claims
create policy p on %t using (tags && array(select jsonb_array_elements_text(coalesce(auth.jwt() -> 'app_metadata' -> 'roles', '[]'))));
-- entry: array: enum array
create policy p on %t using (kind = any (kinds) or 'open' = all (kinds));
-- entry: array: subset
create policy p on %t using (nums <@ array[1, 2, 3] and cardinality(nums) > 0);
-- entry: array: scopes of a member
create policy p on %t using (exists (select 1 from app.members m where m.org = %t.org and m.who = auth.uid() and m.scopes @> %t.tags));
-- entry: array: unnest
create policy p on %t using (exists (select 1 from unnest(people) u (id) join app.follows f on f.followee = u.id where f.follower = auth.uid()));
-- entry: array: unnest with ordinality
create policy p on %t using (exists (select 1 from unnest(tags) with ordinality u (word, place) where u.place = 1 and u.word = state));
-- entry: array: position and slices
create policy p on %t using (array_position(nums, rank) > 1 or nums[2:3] = array[2, 3] or array_length(tags, 1) is null);
-- entry: array: generate_series
create policy p on %t using (rank in (select generate_series(1, 5, 2)));
-- entry: array: array_agg ordered
create policy p on %t using ((select array_agg(m.org order by m.org) from app.members m where m.who = auth.uid()) = nums);
-- entry: array: concatenation
create policy p on %t using ((people || owner) @> array[auth.uid()] and array_remove(tags, 'a') <> '{}');
-- entry: number: numeric and NaN
create policy p on %t using (price > 10 or price = 'NaN' or amount = 1.5);
-- entry: number: float
create policy p on %t using (ratio = 'NaN' or ratio < 0.3 or ratio::numeric = 0.1);
-- entry: number: mixed
create policy p on %t using (small = big or rank::bigint = big or amount > rank or ratio >= small);
-- entry: number: rounding
create policy p on %t using (round(amount) = 2 or round(amount, 1) = 1.5 or floor(price) = -2 or ceil(ratio) = 1 or amount::int = 2);
-- entry: number: between symmetric
create policy p on %t using (rank between symmetric 3 and 1 or org not between symmetric 4 and 2);
-- entry: number: domain
create policy p on %t using (score > 50 or plan = 'pro' or plan in ('team', 'free') and score is null);
-- entry: number: bits
create policy p on %t using ((flags & B'00000011') = B'00000010' or get_bit(flags, 0) = 1 or mask = B'101');
-- entry: number: bit masks of integers
create policy p on %t using ((rank & 2) <> 0 or (rank | 1) = 3 or (rank # 3) = 1 or (1 << small) = 8 or ~rank = -2);
-- entry: json: containment
create policy p on %t using (data @> jsonb_build_object('owner', auth.uid()) or data @> '{"tags": ["a"]}');
-- entry: json: keys
create policy p on %t using (data ? 'flag' and not data ?& array['a', 'level']);
-- entry: json: array elements
create policy p on %t using (exists (select 1 from jsonb_array_elements(case jsonb_typeof(data -> 'people') when 'array' then data -> 'people' else '[]' end) p where p ->> 'id' = auth.uid()::text));
-- entry: json: each
create policy p on %t using (exists (select 1 from jsonb_each_text(coalesce(data -> 'acl', '{}')) e where e.key = auth.uid()::text and e.value in ('r', 'rw')));
-- entry: json: path exists
create policy p on %t using (data @? '$.tags[*] ? (@ == "a")');
-- entry: json: path match
create policy p on %t using (jsonb_path_exists(data, '$.level ? (@ > 1)'));
-- entry: json: json column
create policy p on %t using (doc ->> 'state' = 'open' or (doc -> 'n' ->> 0)::int = 1);
-- entry: json: typeof and lengths
create policy p on %t using (jsonb_typeof(data) = 'object' and jsonb_array_length(coalesce(data -> 'tags', '[]')) > 0);
-- entry: json: null and missing
create policy p on %t using (data -> 'flag' is null or data ->> 'flag' is null or data -> 'flag' = 'null');
-- entry: json: recordset
create policy p on %t using (exists (select 1 from jsonb_to_recordset(case when jsonb_typeof(data -> 'people') = 'array' then data -> 'people' else '[]' end) as x (id text, role text) where x.role = 'admin'));
-- entry: json: row to json
create policy p on %t using (to_jsonb(place) ->> 'zip' = '1' or row_to_json(%t) ->> 'state' = 'open');
-- entry: composite: fields
create policy p on %t using ((place).zip = '1' or (place).street is null and place is not null);
-- entry: composite: comparison
create policy p on %t using (place = row('a', '1')::app.address);
-- entry: inet
create policy p on %t using (addr << inet '10.0.0.0/8' or host(addr) = '127.0.0.1');
-- entry: range: integers
create policy p on %t using (pages @> rank or upper(pages) = 5 or lower_inf(pages));
-- entry: query: lateral
create policy p on %t using (exists (select 1 from app.members m cross join lateral (select o.active from app.orgs o where o.id = m.org limit 1) x where m.who = auth.uid() and x.active and m.org = %t.org));
-- entry: query: left join lateral
create policy p on %t using (exists (select 1 from app.rooms r left join lateral (select count(*) as n from app.seats s where s.room = r.id) x on true where r.id = room and x.n < 3));
-- entry: query: window
create policy p on %t using (exists (select 1 from (select s.room, row_number() over (partition by s.who order by s.room) as n from app.seats s where s.who = auth.uid()) x where x.n = 1 and x.room = %t.room));
-- entry: query: with
create policy p on %t using (exists (with mine as (select m.org from app.members m where m.who = auth.uid()), open as (select o.id from app.orgs o where o.active) select 1 from mine join open on open.id = mine.org where mine.org = %t.org));
-- entry: query: with materialized
create policy p on %t using (org in (with mine as materialized (select m.org from app.members m) select mine.org from mine));
-- entry: query: union
create policy p on %t using (auth.uid() in (select %t.owner union select s.who from app.seats s where s.room = %t.room union all select r.creator from app.rooms r where r.id = %t.room));
-- entry: query: except
create policy p on %t using (auth.uid() in (select s.who from app.seats s where s.room = %t.room except select b.blocked from app.blocks b));
-- entry: query: intersect
create policy p on %t using (exists (select s.who from app.seats s where s.room = %t.room intersect select f.followee from app.follows f where f.follower = auth.uid()));
-- entry: query: group by having
create policy p on %t using (room in (select s.room from app.seats s group by s.room having count(*) > 1 and bool_or(s.who = auth.uid())));
-- entry: query: distinct on
create policy p on %t using (org in (select distinct on (m.who) m.org from app.members m order by m.who, m.org));
-- entry: query: order and limit
create policy p on %t using (room = (select s.room from app.seats s where s.who = auth.uid() order by s.room desc limit 1));
-- entry: query: offset
create policy p on %t using (rank = (select o.id from app.orgs o order by o.id offset 1 limit 1));
-- entry: query: values
create policy p on %t using (exists (select 1 from (values ('open', 1), ('draft', 2)) v (s, n) where v.s = state and v.n <= rank));
-- entry: query: right join
create policy p on %t using (exists (select 1 from app.seats s right join app.rooms r on r.id = s.room where r.id = %t.room and s.who is null));
-- entry: query: full join
create policy p on %t using (exists (select 1 from app.seats s full join app.rooms r on r.id = s.room where coalesce(r.id, s.room) = %t.room));
-- entry: query: aggregates
create policy p on %t using ((select max(m.grade) from app.members m where m.who = auth.uid()) >= wanted);
-- entry: query: filter aggregates
create policy p on %t using ((select count(*) filter (where s.role = 'moderator') from app.seats s where s.room = %t.room) = 1);
-- entry: query: string_agg
create policy p on %t using (path = (select string_agg(m.org::text, '/' order by m.org) from app.members m where m.who = owner));
-- entry: query: quantified row
create policy p on %t using ((owner, room) in (select s.who, s.room from app.seats s));
-- entry: query: not exists
create policy p on %t using (not exists (select 1 from app.seats s where s.room = %t.room and s.who <> auth.uid()));
-- entry: query: double negation
create policy p on %t using (not exists (select 1 from app.rooms r where r.id = %t.room and not exists (select 1 from app.seats s where s.room = r.id and s.who = auth.uid())));
-- entry: query: natural and using
create policy p on %t using (exists (select 1 from app.seats a join app.seats b using (room) where a.who = auth.uid() and b.who = %t.owner));
-- entry: query: own table of secrets
create policy p on %t using (exists (select 1 from app.secrets s where s.who = auth.uid()) or open);
-- entry: query: view of its owner
create policy p on %t using (org in (select v.org from app.active_members v where v.who = auth.uid()));
-- entry: query: view with barrier
create policy p on %t using (org in (select v.org from app.my_orgs v));
-- entry: query: view of the invoker
create view app.mine_%n with (security_invoker) as select m.org from app.members m;
grant select on app.mine_%n to public;
create policy p on %t using (org in (select v.org from app.mine_%n v));
-- entry: query: function of the invoker
create policy p on %t using (app.invoker_member(org));
-- entry: query: config
create policy p on %t using (app.setting('open') = 'yes' or app.setting('kind') = kind::text);
-- entry: query: config, cross join
create policy p on %t using ((select c.value::boolean from app.config c where c.key = 'all_open'));
-- entry: query: own row again
create policy p on %t using (exists (select 1 from app.note n where n.id = %t.id));
-- entry: query: tablesample of nothing
create policy p on %t using (exists (select from app.orgs));
-- entry: query: pg_catalog
create policy p on %t using (exists (select 1 from pg_catalog.pg_roles r where r.rolname = current_user and r.rolbypassrls) or open);
-- entry: roles: current_user
create policy p on %t using (current_user = 'staff' or session_user = 'nobody' or current_role = 'anon' and open);
-- entry: roles: pg_has_role
create policy p on %t using (pg_has_role('authenticated', 'usage') and rank > 0);
-- entry: roles: public and role
create policy a on %t to public using (open);
create policy b on %t to staff using (rank > 1);
create policy c on %t to authenticated using (owner = auth.uid());
-- entry: roles: restrictive for one role
create policy a on %t using (true);
create policy b on %t as restrictive to staff using (rank > 1);
create policy c on %t as restrictive to anon using (open);
-- entry: roles: restrictive only
create policy b on %t as restrictive using (true);
-- entry: roles: none
-- entry: roles: off
alter table %t disable row level security;
create policy p on %t using (false);
-- entry: roles: forced owner
alter table %t owner to keeper;
alter table %t force row level security;
create policy p on %t using (open);
-- entry: roles: owner
alter table %t owner to keeper;
create policy p on %t using (open);
-- entry: roles: columns
revoke select on %t from authenticated, staff;
grant select (rid, id, title, state) on %t to authenticated, staff;
create policy p on %t using (owner = auth.uid() or rank > 1);
-- entry: roles: no execute
create function app.private_%n() returns boolean language sql stable as $$ select true $$;
revoke execute on function app.private_%n() from public;
grant execute on function app.private_%n() to authenticated;
create policy p on %t using (app.private_%n());
-- entry: roles: definer of another owner
create function app.sees_%n(the_org int) returns boolean language sql stable security definer set search_path = '' as
  $$ select exists (select 1 from app.members m where m.org = the_org) $$;
alter function app.sees_%n(int) owner to definer;
create policy p on %t using (app.sees_%n(org));
-- entry: roles: volatile
create function app.now_%n() returns boolean language plpgsql volatile security definer as $$ begin return auth.uid() is not null; end $$;
create policy p on %t using (app.now_%n() and open);
-- entry: roles: for update only
create policy a on %t for update using (true);
create policy b on %t for all using (open) with check (false);
-- entry: odd: constants
create policy p on %t using (1 = 1 and not false or null);
-- entry: odd: null
create policy p on %t using (null);
-- entry: odd: boolean text
create policy p on %t using ('t'::boolean and (open::text = 'true' or open::int = 0));
-- entry: odd: system columns
create policy p on %t using (tableoid is not null and open);
-- entry: odd: whole row
create function app.row_%n(r %t) returns boolean language sql stable as $$ select r.open or r.owner = auth.uid() $$;
create policy p on %t using (app.row_%n(%t));
-- entry: odd: whole row is null
create policy p on %t using (%t is not null or %t.open);
-- entry: odd: default arguments
create function app.least_%n(a int, b int default 2, variadic more int[] default '{}') returns boolean language sql immutable as $$ select a >= b + cardinality(more) $$;
create policy p on %t using (app.least_%n(rank) or app.least_%n(org, 1, 2, 3));
-- entry: odd: overloads
create function app.same_%n(a text, b text) returns boolean language sql immutable as $$ select a = b $$;
create function app.same_%n(a int, b int) returns boolean language sql immutable as $$ select a <> b $$;
create policy p on %t using (app.same_%n(org, rank) and app.same_%n(state, 'open'));
-- entry: odd: operator of the user's
create function app.near_%n(a int, b int) returns boolean language sql immutable as $$ select abs(a - b) < 2 $$;
create operator app.<~> (function = app.near_%n, leftarg = int, rightarg = int);
create policy p on %t using (rank operator(app.<~>) org);
-- entry: odd: random
create policy p on %t using (random() >= 0 and open);
-- entry: odd: clock
create policy p on %t using (clock_timestamp() > at);
-- entry: odd: enum casts
create policy p on %t using (kind > 'draft' and kind::text like '%e%' and kind <= enum_last(null::app.kind));
-- entry: odd: uuid order
create policy p on %t using (owner > other or owner < '30000000-0000-4000-8000-000000000003');
-- entry: odd: interval comparison
create policy p on %t using (span > interval '30 days' or justify_days(span) = interval '1 month');
-- entry: odd: safe_cast
create function app.to_uuid_%n(t text) returns uuid language plpgsql immutable as $$ begin return t::uuid; exception when invalid_text_representation then return null; end $$;
create policy p on %t using (app.to_uuid_%n(title) = auth.uid() or app.to_uuid_%n(split_part(path, '/', 2)) = owner);
-- entry: odd: xmin and ctid
create policy p on %t using (xmin::text <> '0' and open);
-- entry: odd: partitioned
alter publication supabase_realtime drop table %t;
alter table %t rename to old_%n;
create table %t (like app.note) partition by list (open);
create table app.leaf_%n partition of %t for values in (true);
create table app.rest_%n partition of %t default;
alter table app.leaf_%n add primary key (id); alter table app.rest_%n add primary key (id);
alter table %t enable row level security;
grant select on %t, app.leaf_%n, app.rest_%n to public;
create policy p on %t using (owner = auth.uid());
create policy p on app.leaf_%n using (rank > 1);
alter table app.leaf_%n enable row level security;
alter publication supabase_realtime add table %t;
-- entry: odd: inherited
create table app.child_%n (extra text) inherits ( %t );
alter table app.child_%n add primary key (id);
grant select on app.child_%n to public;
create policy p on %t using (owner = auth.uid());
-- entry: raise: a condition before any row
create policy p on %t using (not exists (select 1 from app.orgs o where o.id = %t.org and o.name = 'none' and %t.rank in (select app.my_orgs_set())));
-- entry: raise: a join's condition on claims
create policy p on %t using (not exists (select 1 from app.folders f join app.rooms r on r.id = f.id and (auth.jwt() ->> 'level')::int between 0 and 9 where f.id = 999));
-- entry: raise: a join's condition on the row
create policy p on %t using (not exists (select 1 from app.folders f join app.rooms r on %t.state::int > 0 and r.id = f.id where f.id = 999));
-- entry: raise: a join's condition, from both
create policy p on %t using (not exists (select 1 from app.folders f join app.rooms r on r.id = f.id and abs((auth.jwt() ->> 'level')::int) > 0 and app.role_rank(%t.state) > 0 where f.id = 999) or open);
-- entry: raise: a left join's condition on claims
create policy p on %t using (not exists (select 1 from app.folders f left join app.rooms r on r.id = f.id and abs((auth.jwt() ->> 'level')::int) > 0 where f.id = 999 and r.org is null));
-- entry: raise: a left join that is none
create policy p on %t using (not exists (select 1 from app.folders f left join app.rooms r on r.id = f.id and abs(%t.state::int) > 0 where f.id = 999 and r.org = 1));
-- entry: raise: a left join that is removed
create policy p on %t using (exists (select 1 from app.folders f left join app.rooms r on r.id = f.id and abs(%t.state::int) > 0 where f.id = %t.folder));
-- entry: raise: joins inside of a left join
create policy p on %t using (not exists (select 1 from app.folders f left join (app.rooms r join app.seats s on s.room = r.id and abs((auth.jwt() ->> 'level')::int) > 0) on r.id = f.id where f.id = 999 and s.who is null));
-- entry: raise: joins inside of joins
create policy p on %t using (not exists (select 1 from app.folders f join (app.rooms r join app.seats s on s.room = r.id and abs(%t.state::int) > 0) on r.id = f.id where f.id = 999));
-- entry: raise: a left join inside of a join
create policy p on %t using (not exists (select 1 from app.folders f join (app.rooms r left join app.seats s on s.room = r.id and abs(%t.state::int) > 0) on r.id = f.id where f.id = 999 and s.who is null));
-- entry: raise: a query in from that reads no row
create policy p on %t using (not exists (select 1 from app.folders f join (select r.id from app.rooms r where abs(%t.state::int) > 0) v on v.id = f.id where f.id = 999));
-- entry: raise: a query in from, of claims
create policy p on %t using (not exists (select 1 from app.folders f join (select r.id from app.rooms r where abs((auth.jwt() ->> 'level')::int) >= 0) v on v.id = f.id where f.id = 999));
-- entry: raise: a query in from, on its rows
create policy p on %t using (not exists (select 1 from app.folders f join (select o.id, (o.settings ->> 'limit')::int as most from app.orgs o) v on v.id = f.id where f.id = 999 and v.most > 1));
-- entry: raise: a query in from, with a limit
create policy p on %t using (not exists (select 1 from app.folders f join (select o.id, (o.settings ->> 'limit')::int as most from app.orgs o order by o.id limit 9) v on v.id = f.id where f.id = 999));
-- entry: raise: a with query
create policy p on %t using (not exists (with v as (select o.id, (o.settings ->> 'limit')::int as most from app.orgs o) select 1 from app.folders f join v on v.id = f.id where f.id = 999 and v.most > 1));
-- entry: raise: the second table of a join
create policy p on %t using (not exists (select 1 from app.folders f join app.orgs o on o.id = f.id where f.id = 999 and (o.settings ->> 'limit')::int > 0));
-- entry: raise: the second table of a join, with the row
create policy p on %t using (not exists (select 1 from app.folders f join app.orgs o on o.parent = f.id where f.id = 999 and 100 / (o.id - %t.rank) > 0));
-- entry: raise: a side of a join's equality
create policy p on %t using (not exists (select 1 from app.folders f join app.orgs o on (o.settings ->> 'limit')::int = f.id where f.id = 999));
-- entry: raise: a side of a join's equality, the other way
create policy p on %t using (not exists (select 1 from app.orgs o join app.folders f on (o.settings ->> 'limit')::int = f.id where f.id = 999));
-- entry: raise: a side of a join's equality, guarded
create policy p on %t using (exists (select 1 from app.orgs o join app.folders f on (case when o.settings ->> 'limit' ~ '^[0-9]+$' then (o.settings ->> 'limit')::int end) >= f.id where o.id = %t.org));
-- entry: raise: over two tables
create policy p on %t using (exists (select 1 from app.orgs o join app.folders f on 100 / (o.id - f.id) > 0 where o.id = %t.org));
-- entry: raise: a key that is read first or never
create policy p on %t using (not exists (select 1 from app.folders f join app.rooms r on r.org = f.parent where f.id = 999 and r.id = %t.state::int));
-- entry: raise: with the row, behind a key
create policy p on %t using (exists (select 1 from app.orgs o where o.id = %t.org and 100 / (o.id - %t.rank) > 0));
-- entry: raise: with the row, before a dear key
create policy p on %t using (not exists (select 1 from app.members m where 100 / (m.org - %t.rank) > 0 and m.who = auth.uid()));
-- entry: raise: with the row, before a dear key, together
create policy p on %t using (not exists (select 1 from app.members m where m.org = %t.org and 100 / (m.org - %t.rank) > 0 and m.who = auth.uid()));
-- entry: raise: a pattern of the row
create policy p on %t using (not exists (select 1 from app.orgs o where o.name like %t.title || '\' and o.id = %t.org));
-- entry: raise: a function in from that reads the row
create policy p on %t using (not exists (select 1 from app.folders f, jsonb_array_elements_text(%t.data -> 'people') e where f.id = 999));
-- entry: raise: a function in from that reads the tables
create policy p on %t using (exists (select 1 from app.orgs o, jsonb_array_elements_text(o.settings -> 'limit') e where o.id >= %t.org));
-- entry: raise: rows of a query in from
create policy p on %t using (exists (select 1 from (select o.id, o.settings from app.orgs o order by o.id) v where v.id >= %t.org and (v.settings ->> 'limit')::int > 1));
-- entry: raise: a query inside of a query, on claims
create policy p on %t using (not exists (select 1 from app.folders f where f.id = 999 and exists (select 1 from app.orgs o where o.id = f.id and o.id > abs((auth.jwt() ->> 'level')::int))));
-- entry: raise: a query inside of a query, on rows
create policy p on %t using (not exists (select 1 from app.folders f where f.id = 999 and f.id in (select (o.settings ->> 'limit')::int from app.orgs o)));
-- entry: raise: a case with the row
create policy p on %t using (not exists (select 1 from app.folders f join app.orgs o on o.id = f.id where f.id = 999 and case when o.active then %t.state::int > 0 else false end));
-- entry: raise: caught
create function app.caught_%n(word text, the_org int) returns boolean language plpgsql stable security definer set search_path = '' as $$
begin
  return exists (select 1 from app.folders f join app.rooms r on r.id = f.id and abs(word::int) > 0 where f.id = 999);
exception when others then
  return true;
end $$;
create policy p on %t using (app.caught_%n(state, org));
-- entry: raise: conditions on no row, the dear one first
create policy p on %t using (not exists (select 1 from app.folders f where abs((auth.jwt() ->> 'level')::int) > 0 and %t.open and f.id = 999));
-- entry: raise: conditions on no row, guarded
create policy p on %t using (not exists (select 1 from app.folders f where %t.state ~ '^[0-9]+$' and %t.state::int > 0 and f.id = 999));
-- entry: order: a function on rows
create function app.number_%n(word text) returns int language plpgsql stable as $$ begin return word::int; end $$;
create policy p on %t using (exists (select 1 from app.orgs o where app.number_%n(o.settings ->> 'limit') >= %t.rank));
-- entry: order: a function on rows of a join
create function app.number_%n(word text) returns int language plpgsql stable as $$ begin return word::int; end $$;
create policy p on %t using (not exists (select 1 from app.folders f join app.orgs o on o.id = f.id where f.id = 999 and app.number_%n(o.settings ->> 'limit') > 0));
-- entry: order: a function of claims on rows
create function app.over_%n(n int) returns boolean language sql stable security definer set search_path = '' as $$ select (auth.jwt() ->> 'level')::int > n $$;
create policy p on %t using (not exists (select 1 from app.orgs o where o.id = %t.org and app.over_%n(o.id)));
-- entry: order: a function over a constant
create function app.fixed_%n(word text) returns int language plpgsql immutable as $$ begin return word::int; end $$;
create policy p on %t using (open or app.fixed_%n('x') > 0);
-- entry: order: a function over a constant, in a case
create function app.fixed_%n(word text) returns int language sql immutable as $$ select word::int $$;
create policy p on %t using (case when open then true else app.fixed_%n('x') > rank end);
-- entry: order: rows of a function in from
create function app.limits_%n() returns table (id int, most int) language sql stable as $$ select o.id, (o.settings ->> 'limit')::int from app.orgs o $$;
create policy p on %t using (exists (select 1 from app.limits_%n() l where l.id = %t.org));
-- entry: order: one value of several rows
create policy p on %t using (exists (select 1 from app.orgs o where (select r.creator from app.rooms r where r.org = o.id) is not null));
-- entry: order: a with query that reads no row
create policy p on %t using (not exists (with v as (select f.id from app.folders f where abs((auth.jwt() ->> 'level')::int) > 0) select 1 from v where %t.open and v.id = 999));
-- entry: order: a with query that reads the row
create policy p on %t using (not exists (with v as (select f.id from app.folders f where abs(%t.state::int) > 0) select 1 from v where %t.open and v.id = 999));
-- entry: order: a query in from that reads the row
create policy p on %t using (not exists (select 1 from (select f.id from app.folders f where abs(%t.state::int) > 0 limit 5) v where %t.open and v.id = 999));
-- entry: order: a union of what raises
create policy p on %t using (exists (select o.id from app.orgs o union select r.id from app.rooms r where %t.state::int > r.id));
-- entry: order: an aggregate over nothing
create policy p on %t using ((select count(*) from app.folders f where f.id = 999) = 0 and (select max(f.id) from app.folders f where f.id = 999) is null and (select count(*) from app.folders f having count(*) > 1000) is null);
-- entry: order: an aggregate over what raises
create policy p on %t using (open or (select count(*) from app.orgs o where o.id = %t.org and (o.settings ->> 'limit')::int > 1) > 0);
-- entry: order: an aggregate, limited
create policy p on %t using (open or (select count(*) from app.orgs o limit 0) is null and (select count(*) from app.orgs o offset 1) is null and exists (select max(o.id) from app.orgs o where false));
-- entry: order: an operand beside an index
create policy p on %t using (open or exists (select 1 from app.folders f, app.orgs o where f.id = o.id + (auth.jwt() ->> 'level')::int));
-- entry: order: an operand of a group
create policy p on %t using (open or (select count(*) from app.folders f group by f.parent having f.parent = (auth.jwt() ->> 'level')::int limit 1) > 0);
-- entry: order: a join that is left out
create policy p on %t using (open or exists (select 1 from app.folders f left join app.orgs o on f.id = o.id and o.parent > (auth.jwt() ->> 'level')::int));
-- entry: order: a time zone of rows
create policy p on %t using (exists (select 1 from app.profiles p where p.tz = 'none' or (%t.at at time zone coalesce(p.name, p.tz)) > '2020-01-01'));
-- entry: raise: a condition that parameters make NULL
create function app.kept_%n(other uuid) returns boolean language plpgsql stable security definer set search_path = '' as $$
begin
  perform 1 from app.blocks b where b.blocker = other and b.blocked = auth.uid();
  return not found;
end $$;
create policy p on %t using (app.kept_%n(owner));
-- entry: raise: a condition that parameters make false, in a query within
create function app.kept_%n(the_org int) returns boolean language plpgsql stable security definer set search_path = '' as $$
begin
  return not exists (select 1 from app.members m join app.orgs o on o.id = m.org and the_org > 1 where m.who = auth.uid());
end $$;
create policy p on %t using (app.kept_%n(org));
-- entry: raise: a condition that parameters make NULL, in SQL
create function app.kept_%n(other uuid) returns boolean language sql stable security definer set search_path = '' as
  $$ select not exists (select 1 from app.blocks b where b.blocker = other and b.blocked = auth.uid()) $$;
create policy p on %t using (app.kept_%n(owner));
-- entry: raise: a comparison with NULL
create policy p on %t using (not exists (select 1 from app.blocks b where b.blocker = null and b.blocked = auth.uid()));

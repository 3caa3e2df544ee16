-- Row security on the target would hide rows from an ordinary role: setup refuses
-- [target role conformance_guarded]
-- [refused by setup: row security of public.t on the target would hide rows from role conformance_guarded]
-- [schema]
create table t(id int primary key, v text);
-- [target]
create role conformance_guarded login;
alter table t enable row level security;
create policy own on t using (v = 'mine');
grant all on t to conformance_guarded;

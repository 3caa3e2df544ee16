-- A label renamed on the target while the log still says the old one: the refusal names it, and going on is possible
-- [refused by follow: invalid input value for enum public.mood: "sad"]
-- [schema]
create type mood as enum ('sad', 'happy');
create table t(id int primary key, m mood);
-- [target]
alter type mood rename value 'sad' to 'blue';
-- [changes]
insert into t values (1, 'happy');
insert into t values (2, 'sad');
alter type mood rename value 'sad' to 'blue';
insert into t values (3, 'blue');
-- [mend]
alter type mood add value 'sad';
-- [compare]
select count(*) from t

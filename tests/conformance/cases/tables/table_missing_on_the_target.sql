-- A table that the target lacks is refused before anything is made
-- [refused by setup: table public.t is missing on the target]
-- [source]
create table t(id int primary key);

-- A column that the target lacks is refused before anything is made
-- [refused by setup: column "b" of public.t is missing on the target]
-- [source]
create table t(id int primary key, b int);
-- [target]
create table t(id int primary key);

-- More subtransactions than fit the running-transactions record, in a transaction that spills
-- [schema]
create table t(id int primary key, v text);
-- [changes]
do $$ begin
    for i in 1 .. 3000 loop
        begin
            insert into t values (i, repeat('x', 100));
            if i % 7 = 0 then raise 'no'; end if;
        exception when raise_exception then null;
        end;
    end loop;
end $$;
update t set v = v || id where id % 2 = 0;

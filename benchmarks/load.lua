-- What wrk asks for:  wrk … -s load.lua URL -- KIND FOLDER RUN
--
-- KIND is read, one, search, order, patch, mixed or plain. FOLDER holds the files `tokens`, `staff`, `books` and `queries`,
-- a value a line. RUN tells the rounds apart: no two requests of a benchmark have the same Idempotency-Key.
--
-- A write is counted by what it was answered, and the ones that were acknowledged are written to FOLDER/RUN.acknowledged:
-- an order that is confirmed by the address that only it has, a call that was kept by the name of its operation. All that
-- is told stands in one line of JSON at the end.

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

local function lines(path)
   local found = {}
   for line in io.lines(path) do
      table.insert(found, line)
   end
   return found
end

local kind, folder, run, tokens, staff, books, queries, reads, acknowledged
local number = 0
confirmed, undecided, kept, changed, other, last = 0, 0, 0, 0, 0, ""

local function bearer(token)
   return { ["Authorization"] = "Bearer " .. token }
end

local function writing(token)
   local headers = bearer(token)
   headers["Content-Type"] = "application/json"
   headers["Idempotency-Key"] = run .. "-" .. number
   return headers
end

local function order()
   number = number + 1
   local body = string.format(
      '{"items":[{"book_id":"%s","quantity":1}],"shipping_address":"%s-%d, 1 Bench Street, 12345 Testville"}',
      books[math.random(#books)], run, number
   )
   return wrk.format("POST", "/v1/orders", writing(tokens[number % #tokens + 1]), body)
end

local function patch()
   number = number + 1
   local body = string.format('{"price":{"currency_code":"EUR","units":"%d","nanos":990000000}}', math.random(5, 99))
   return wrk.format("PATCH", "/v1/books/" .. books[math.random(#books)], writing(staff[1]), body)
end

local function read()
   return reads[math.random(#reads)]
end

local function mixed()
   if math.random(10) == 1 then
      return order()
   end
   return read()
end

function init(args)
   kind, folder, run = args[1], args[2], args[3]
   math.randomseed(tonumber(args[4]))
   tokens, staff = lines(folder .. "/tokens"), lines(folder .. "/staff")
   books, queries = lines(folder .. "/books"), lines(folder .. "/queries")
   local paths = {}
   if kind == "search" then
      for _, query in ipairs(queries) do
         table.insert(paths, "/v1/books?page_size=20&query=" .. query)
      end
   elseif kind == "one" then
      -- Once for each customer: one alone may ask 10,000 times a second, which is too few by now.
      for _ in ipairs(tokens) do
         table.insert(paths, "/v1/books/" .. books[1])
      end
   elseif kind == "plain" then
      paths = { "/" }
   else
      for _, book in ipairs(books) do
         table.insert(paths, "/v1/books/" .. book)
      end
   end
   -- Made beforehand, so that the load costs little of the machine that it shares with what is measured.
   reads = {}
   for position, path in ipairs(paths) do
      reads[position] = wrk.format("GET", path, bearer(tokens[position % #tokens + 1]))
   end
   request = ({ order = order, patch = patch, mixed = mixed })[kind] or read
   if kind == "order" or kind == "patch" or kind == "mixed" then
      acknowledged = io.open(folder .. "/" .. run .. ".acknowledged", "w")
      response = taken
   end
end

function taken(status, headers, body)
   if status == 201 and body:find('"ORDER_STATUS_CONFIRMED"', 1, true) then
      confirmed = confirmed + 1
      acknowledged:write(body:match(run .. "%-%d+"), "\n")
   elseif status == 201 then
      undecided = undecided + 1
   elseif status == 202 then
      kept = kept + 1
      acknowledged:write(body:match("operations/[%w%-]+"), "\n")
   elseif status == 200 then
      changed = changed + 1
   else
      other = other + 1
      last = status .. " " .. body:gsub("[%c\"\\]", " "):sub(1, 300)
   end
end

function done(summary, latency, requests)
   local counts = { confirmed = 0, undecided = 0, kept = 0, changed = 0, other = 0 }
   local said = ""
   for _, thread in ipairs(threads) do
      for name, count in pairs(counts) do
         counts[name] = count + thread:get(name)
      end
      said = said .. thread:get("last")
   end
   local errors = summary.errors
   print(string.format(
      '{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "confirmed": %d, "undecided": %d, "kept": %d, "changed": %d, "other": %d, "errors": %d, "said": "%s"}',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      counts.confirmed, counts.undecided, counts.kept, counts.changed, counts.other,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout, said
   ))
end

# What holds of kernels that are loops over memory.

@testset "layouts that BLAS cannot take are refused" begin
    @test_throws PySemi.TapeError result_of(
        "%8[2,2|1,2|0] = matmul %9[2,2] %10[2,2]", zeros(4), zeros(4), zeros(4)
    )
    @test_throws PySemi.TapeError result_of(
        "%8[1,2|0,3|0] = matmul %9[1,2] %10[2,2]", zeros(4), zeros(2), zeros(4)
    )
    @test_throws PySemi.TapeError result_of(
        "%8[2,2] = matmul %9[2,2|4,2|0] %10[2,2]", zeros(4), zeros(8), zeros(4)
    )
end

@testset "nothing is allocated by: $line" for line in (
        "%8[20,50] = pointwise %9[20,50] %10[20,50|0,1|0] :: v1 = x1 + x2; tanh(v1)",
        "%8[50,20|1,50|0] = pointwise %9[50,20] :: x1 * x1",
        "%8[2,2|2,1|0] = matmul %9[2,3|3,1|0] %10[3,2|2,1|0]",
        "%8[20,20|20,1|0] = matmul %9[20,50] %10[50,20|1,50|0]",
        "%8[20,1|1,1|0] = matmul %9[20,50] %10[50,1|1,1|0]",
        "%8[1,20|20,1|0] = matmul %10[1,50|50,1|0] %9[50,20]",
        "%8[20,50|1,0|0] = reduce %9[20,50] sum",
        "%8[20,50|0,1|0] = reduce %9[20,50] max",
        "%8[20|1|0] = window %9[20|1|0] %11[1|1|0] 20 50",
        "%8[2|1|0] = take %9[1000] %11[2]",
        "%8[1000] = put %11[2] %9[2|1|0] add",
        "%12[20] = searchsorted %9[20|1|0] %10[1000] left",
        "%8[20,50|1,0|0] = reduce %9[20,50] prod",
        "%8[22,20|20,1|0] = factor %9[20,20|20,1|0] lu",
        "%8[20,20|20,1|0] = factor %9[20,20|1,20|0] cholesky",
        "%8[1000] = put %11[2] %9[2|1|0] max",
        "%8[20,20|20,1|0] = exponential %9[20,20|1,20|0]",
        "%8[3,10,10|100,10,1|0] = exponential %9[3,10,10|100,10,1|0]",
        "%8[20,2|2,1|0] = solve %9[20,20|20,1|0] %10[20,2|2,1|0] plain",
    )
    tape = tape_with((randn(1000), randn(1000), randn(1000), [3, 5], zeros(Int, 20)), line)
    kernel::Thunk = only(tape.programs["field"])
    @test allocated(kernel) == 0
end
